"""How a model is laid out for OpenVINO Model Server: ``<model>/<version>/...``, and the file that lists all models."""

import json
from collections.abc import Mapping
from pathlib import Path

from mesh.runtimes.adapters.layout import NO_VERSION, Layout, entries, newest_version, require_path
from mesh.runtimes.adapters.request import ModelRequest


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
