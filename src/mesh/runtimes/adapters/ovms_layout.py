"""How a model is laid out for OpenVINO Model Server: ``<model>/<version>/...``, and the file that lists all models."""

import json
from collections.abc import Mapping
from pathlib import Path

import grpc

from mesh.runtimes.adapters.layout import NO_VERSION, Layout, entries, newest_version, require_path
from mesh.runtimes.adapters.request import ModelRequest
from mesh.runtimes.interface import RuntimeFailure


def ovms_directory(model_id: str) -> str:
    """Names the directory of a model.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT, the id can be no name of a directory.
    """
    if model_id in {"", ".", ".."} or "/" in model_id or "\0" in model_id or len(model_id.encode()) > 255:
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"OpenVINO Model Server cannot serve model '{model_id}': its name must be that of a directory, without "
            "'/' and at most 255 bytes long; register the model under another id",
        )
    return model_id


def plan_ovms(request: ModelRequest) -> Layout:
    """Plans a model's directory; looks at the model's files and changes nothing. A schema says nothing to the server.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT or NOT_FOUND, with the reason.
        OSError: the files cannot be read.
    """
    path = require_path(request.path)
    if path.is_dir():
        version, path = newest_version(path, entries(path))
        return Layout(links={version: path})
    name = "model.onnx" if request.format == "onnx" else path.name
    return Layout(links={f"{NO_VERSION}/{name}": path})


def model_list(models: Mapping[str, Path]) -> bytes:
    """Writes the file that lists the models, by name in their order, each with its directory."""
    entries_of = [{"config": {"name": name, "base_path": str(path)}} for name, path in models.items()]
    return json.dumps({"model_config_list": entries_of}, indent=1).encode()
