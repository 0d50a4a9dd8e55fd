"""How a model is laid out in MLServer's repository: ``<model>/model-settings.json`` beside links to its files."""

import json
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc

from mesh.runtimes.adapters.layout import Layout, entries, require_path
from mesh.runtimes.adapters.request import ModelRequest
from mesh.runtimes.adapters.schema import Schema, Tensor, read_schema
from mesh.runtimes.interface import RuntimeFailure

SETTINGS = "model-settings.json"
_IMPLEMENTATIONS = {
    "sklearn": "mlserver_sklearn.SKLearnModel",
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
    "mllib": "mlserver_mllib.MLlibModel",
}


def mlserver_directory(model_id: str) -> str:
    """Names the directory of a model, one to one; the model's name in MLServer is its id all the same.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT, the id is empty or too long.
    """
    name = quote(model_id, safe="", errors="surrogatepass").replace("~", "%7E")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if not name or len(name) > 255:
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"model id '{model_id[:40]}' is empty or too long for the name of a directory; use another id",
        )
    return name


def plan_mlserver(request: ModelRequest, directory: Path) -> Layout:
    """Plans a model's directory; looks at the model's files and changes nothing.

    Args:
        request: what to lay out.
        directory: absolute; where the layout will be, as MLServer is told absolute paths.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT or NOT_FOUND, with the reason.
        OSError: the files cannot be read.
    """
    _require_plain(request.name)
    path = require_path(request.path)
    schema = read_schema(request.schema_path) if request.schema_path is not None else None
    found = entries(path) if path.is_dir() else {}
    if SETTINGS in found:
        settings = _rewrite(found[SETTINGS].read_bytes(), request.name, directory)
        links = {name: entry for name, entry in found.items() if name != SETTINGS}
    else:
        settings = _generate(request, directory / path.name)
        links = {path.name: path}
    _add_schema(settings, schema)
    content = json.dumps(settings, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return Layout(links=links, files={SETTINGS: content})


def _require_plain(name: str) -> None:
    # MLServer puts the name into the metadata of each answer, where gRPC takes nothing else.
    if not all(" " <= character <= "~" for character in name):
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"MLServer cannot answer for model {name!r}: its name must be of printable ASCII characters; "
            "register the model under another id",
        )


def _generate(request: ModelRequest, uri: Path) -> dict[str, Any]:
    implementation = _IMPLEMENTATIONS.get(request.format)
    if implementation is None:
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"model type '{request.format}' is none of {', '.join(sorted(_IMPLEMENTATIONS))}; for another, put a "
            f"{SETTINGS} that names its implementation beside the model's files",
        )
    return {"name": request.name, "implementation": implementation, "parameters": {"uri": str(uri)}}


def _rewrite(content: bytes, name: str, directory: Path) -> dict[str, Any]:
    try:
        settings = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _malformed(str(error)) from None
    if not isinstance(settings, dict):
        raise _malformed("it is no object")
    settings["name"] = name
    parameters = settings.get("parameters")
    if parameters is None:
        return settings
    if not isinstance(parameters, dict):
        raise _malformed("'parameters' is no object")
    uri = parameters.get("uri")
    if uri is not None:
        if not isinstance(uri, str) or "\0" in uri:
            raise _malformed("'parameters.uri' is no path")
        if "://" not in uri:
            # As if the model's directory were the root: neither "/x" nor "../x" leads out.
            parameters["uri"] = str(directory / posixpath.normpath(f"/{uri}").lstrip("/"))
    return settings


def _add_schema(settings: dict[str, Any], schema: Schema | None) -> None:
    if schema is None:
        return
    for field, tensors in (("inputs", schema.inputs), ("outputs", schema.outputs)):
        if tensors is not None:
            settings[field] = [_entry(tensor, settings.get(field)) for tensor in tensors]


def _entry(tensor: Tensor, earlier: object) -> Mapping[str, Any]:
    # Tags and parameters, such as the content type, are not the schema's to drop.
    known = earlier if isinstance(earlier, list) else []
    same = next((one for one in known if isinstance(one, dict) and one.get("name") == tensor.name), {})
    return {**same, "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _malformed(why: str) -> RuntimeFailure:
    return RuntimeFailure(grpc.StatusCode.INVALID_ARGUMENT, f"{SETTINGS} of the model is malformed: {why}")
