"""What an adapter reads from a request to load a model; pure."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from mesh.runtimes.interface import ModelInfo, RuntimeFailure


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A model to be laid out for a server.

    Attributes:
        name: in the server; the model's id.
        path: of the model's file or directory here.
        format: such as ``sklearn``; lower case, without a version; may be empty.
        schema_path: of a JSON file with the model's inputs and outputs, or None.
    """

    name: str
    path: Path
    format: str
    schema_path: Path | None = None


def read_request(model: ModelInfo) -> ModelRequest:
    """Reads path, type and schema as KServe ModelMesh's adapters do.

    The type is that of the key, ``model_type.name`` or ``model_type``, else that of the request.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT, the key is malformed.
    """
    key = read_key(model.key)
    declared = key.get("model_type")
    if isinstance(declared, dict):
        declared = declared.get("name")
    kind = declared if isinstance(declared, str) and declared else model.model_type
    schema_path = key.get("schema_path")
    if schema_path is not None and not isinstance(schema_path, str):
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            "Invalid schemaPath in LoadModelRequest, 'schema_path' attribute must have a string value. "
            f"Found value {schema_path!r}",
        )
    return ModelRequest(
        name=model.model_id,
        path=Path(model.path),
        format=kind.partition(":")[0].strip().lower(),
        schema_path=Path(schema_path) if schema_path else None,
    )


def disk_size_bytes(key: str) -> int | None:
    """Tells the size of the model's files that a key holds; None where it holds none above 0."""
    try:
        size = read_key(key).get("disk_size_bytes")
    except RuntimeFailure:
        return None
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 1 << 63:
        return None
    return int(size)


def read_key(key: str) -> dict[str, Any]:
    """Parses a model key; an empty one has no fields.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT.
    """
    if not key:
        return {}
    try:
        parsed = json.loads(key)
    except (ValueError, RecursionError) as error:
        raise _bad_key(key, str(error)) from None
    if not isinstance(parsed, dict):
        raise _bad_key(key, "it is no object")
    return parsed


def _bad_key(key: str, why: str) -> RuntimeFailure:
    # Without a puller the key may still hold credentials, in its parameters.
    at = key.lower().find("storage_params")
    shown = key[:200] if at < 0 else f"{key[: min(at, 200)]}..."
    return RuntimeFailure(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"Invalid modelKey in LoadModelRequest. ModelKey value '{shown}' is not valid JSON: {why}",
    )
