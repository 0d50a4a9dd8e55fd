"""How a model is laid out in Triton's repository: ``<model>/<version>/<file>`` and ``config.pbtxt``."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from mesh.runtimes.adapters.layout import NO_VERSION, Layout, entries, newest_version, require_path
from mesh.runtimes.adapters.model_config import generate_config, rewrite_config
from mesh.runtimes.adapters.request import ModelRequest
from mesh.runtimes.adapters.schema import Schema, read_schema
from mesh.runtimes.interface import RuntimeFailure

CONFIG = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class _Format:
    """How Triton calls a model of a format.

    Attributes:
        backend: that runs it.
        file: name below the version, where the model is a file.
        directory: the same where it is a directory; empty where that becomes the version itself.
    """

    backend: str
    file: str
    directory: str = ""


_FORMATS = {
    "tensorflow": _Format("tensorflow", "model.graphdef", "model.savedmodel"),
    "keras": _Format("tensorflow", "", "model.savedmodel"),
    "onnx": _Format("onnxruntime", "model.onnx", "model.onnx"),
    "pytorch": _Format("pytorch", "model.pt"),
    "tensorrt": _Format("tensorrt", "model.plan"),
}


def plan_triton(request: ModelRequest) -> Layout:
    """Plans a model's directory; looks at the model's files and changes nothing.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT or NOT_FOUND, with the reason.
        OSError: the files cannot be read.
    """
    path = require_path(request.path)
    schema = read_schema(request.schema_path) if request.schema_path is not None else None
    if path.is_dir():
        found = entries(path)
        if CONFIG in found:
            return _native(found, schema)
        version, path = newest_version(path, found)
        path = _only_entry(path, request.format)
    else:
        version = NO_VERSION
    known = _FORMATS.get(request.format, _Format("", path.name))
    if path.is_dir():
        link = f"{version}/{known.directory}" if known.directory else version
    elif known.file:
        link = f"{version}/{known.file}"
    else:
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"'{path.name}' is a Keras file, which Triton does not read; save the model as a TensorFlow "
            "SavedModel directory and register that, or export it to ONNX",
        )
    files = {} if schema is None else {CONFIG: generate_config(known.backend, schema).encode()}
    return Layout(links={link: path}, files=files)


def _native(found: dict[str, Path], schema: Schema | None) -> Layout:
    # Undecodable bytes, in a comment perhaps, are passed on as they are.
    config = found[CONFIG].read_bytes().decode("utf-8", "surrogateescape")
    rewritten = rewrite_config(config, schema).encode("utf-8", "surrogateescape")
    links = {name: path for name, path in found.items() if name != CONFIG}
    return Layout(links=links, files={CONFIG: rewritten})


def _only_entry(path: Path, model_format: str) -> Path:
    inside = list(entries(path).values())
    return inside[0] if len(inside) == 1 and model_format in _FORMATS else path
