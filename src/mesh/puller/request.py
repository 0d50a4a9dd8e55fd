"""From a model's path and key to a typed request for storage; pure, but for the reader it is given."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from mesh.puller.failure import Code, PullFailure
from mesh.puller.names import split_path
from mesh.puller.uris import Located, locate, scheme_of

MODEL_NAME = "_model"
"""Local name of a model whose path has no base name: a whole bucket, claim or directory."""
SCHEMA_NAME = "_schema.json"
"""Local name of a schema whose base name the model has already."""
MARKER_NAME = ".mesh-pulled"
"""In each directory of a model: says that the puller made it."""

ConfigReader: TypeAlias = Callable[[str], Mapping[str, Any] | None]
"""Gives the storage configuration of a name, or None where there is none.

Raises `PullFailure` where it is there but unreadable.
"""


@dataclass(frozen=True, slots=True)
class StorageRequest:
    """What to bring here, and how to call it.

    Attributes:
        type: the provider, such as ``s3``.
        config: the provider's fields, credentials among them.
        path: of the model, as the provider understands it.
        name: the model's local name, a file or a directory.
        schema_path: of the schema, or None.
        schema_name: the schema's local name; differs from ``name``.
        model_type: passed through to the runtime; None where the key had none.
        declared_bytes: size that the key declared; used where the real size is unknown.
    """

    type: str
    config: Mapping[str, Any] = field(repr=False)
    path: str
    name: str
    schema_path: str | None = None
    schema_name: str = SCHEMA_NAME
    model_type: Any = None
    declared_bytes: int = 0

    def key_for_runtime(self, disk_size_bytes: int, schema_path: str | None) -> str:
        """Writes the key that the runtime gets: no credentials, local paths.

        Args:
            disk_size_bytes: of the model's files; 0 where unknown.
            schema_path: absolute local path, or None.
        """
        key: dict[str, Any] = {}
        if self.model_type is not None:
            key["model_type"] = self.model_type
        key["disk_size_bytes"] = disk_size_bytes or self.declared_bytes
        if schema_path is not None:
            key["schema_path"] = schema_path
        return json.dumps(key, separators=(",", ":"))


def resolve(path: str, key: str, read_config: ConfigReader) -> StorageRequest:
    """Works out where a model lies and with which credentials, as KServe ModelMesh's puller does.

    Args:
        path: the model's path in its storage, or an address such as ``s3://bucket/path``, which goes before what
            the key says of the place; the key may be empty then.
        key: JSON object with ``storage_key``, ``storage_params``, ``schema_path``, ``model_type``, ``bucket``
            and ``disk_size_bytes``, all optional; other fields are ignored.
        read_config: looks a storage configuration up by name.

    Raises:
        PullFailure: INVALID_ARGUMENT, key or path are malformed or the type of storage is missing; NOT_FOUND,
            no such configuration; what ``read_config`` raises.
    """
    located = locate(path) if scheme_of(path) else None
    fields = _ModelKey(key or "{}" if located is not None else key)
    config = _configuration(fields, read_config, located)
    kind = config.get("type")
    if not isinstance(kind, str):
        # Clients and tests match on this text, all of it.
        raise PullFailure(Code.INVALID_ARGUMENT, "Predictor Storage field missing")
    if located is not None:
        path = located.path
    name = _local_name(path, "model path", MODEL_NAME, taken={MARKER_NAME})
    schema_path = fields.text("schema_path") or None
    return StorageRequest(
        type=kind,
        config=config,
        path=path,
        name=name,
        schema_path=schema_path,
        schema_name=_local_name(schema_path or "", "schema_path", SCHEMA_NAME, taken={MARKER_NAME, name}),
        model_type=fields.get("model_type"),
        declared_bytes=fields.size("disk_size_bytes"),
    )


class _ModelKey:
    """The fields of a model key; names count whatever their case, as they did for ModelMesh."""

    def __init__(self, raw: str) -> None:
        self._raw = raw
        try:
            parsed = json.loads(raw, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            self._refuse(str(error) or type(error).__name__)
        if not isinstance(parsed, dict):
            self._refuse(f"it must be an object, but is {_kind(parsed)}")
        self._fields = {name.lower(): value for name, value in parsed.items()}

    def get(self, name: str) -> Any:
        return self._fields.get(name)

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            self._refuse(f"'{name}' must be a string, but is {_kind(value)}")
        return value

    def texts(self, name: str) -> dict[str, str]:
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._refuse(f"'{name}' must be an object, but is {_kind(value)}")
        for inner, text in value.items():
            if not isinstance(text, str):
                self._refuse(f"'{name}.{inner}' must be a string, but is {_kind(text)}")
        return value

    def size(self, name: str) -> int:
        value = self.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._refuse(f"'{name}' must be a number of bytes")
        return value

    def _refuse(self, why: str) -> NoReturn:
        shown = _without_values(self._raw)
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"Invalid modelKey in LoadModelRequest. Error processing JSON '{shown}': {why}",
        )


def _configuration(
    fields: _ModelKey, read_config: ConfigReader, located: Located | None
) -> Mapping[str, Any]:
    params = dict(fields.texts("storage_params"))
    if located is not None:
        params |= {**located.fields, "type": located.type}
    storage_key = fields.text("storage_key")
    if storage_key is not None:
        found = read_config(storage_key)
        if found is None:
            raise PullFailure(
                Code.NOT_FOUND,
                f"Did not find storage config for key {storage_key}: "
                f"Storage secretKey not found: {storage_key}",
            )
    else:
        kind = params.get("type")
        found = read_config(f"default_{kind}" if kind is not None else "default") or {}
    config: dict[str, Any] = copy.deepcopy(dict(found))
    if config.get("type") == "s3" and "bucket" not in config and "default_bucket" in config:
        config["bucket"] = config["default_bucket"]
    bucket = fields.text("bucket")
    if bucket is not None and "bucket" in config:
        config["bucket"] = bucket
    for dotted in sorted(params):
        _override(config, dotted, params[dotted])
    return config


def _override(config: dict[str, Any], dotted: str, value: str) -> None:
    *parents, last = dotted.split(".")
    node = config
    for depth, parent in enumerate(parents, start=1):
        below = node.setdefault(parent, {})
        if not isinstance(below, dict):
            raise _cannot_merge(f"expected an object at '{'.'.join(parents[:depth])}'")
        node = below
    if last in node and not isinstance(node[last], str):
        # Only the kind: the value may hold credentials.
        raise _cannot_merge(f"expected a string at '{dotted}', but got {_kind(node[last])}")
    node[last] = value


def _cannot_merge(why: str) -> PullFailure:
    return PullFailure(
        Code.INVALID_ARGUMENT,
        f"Unable to merge storage parameters from the storage config and the Predictor Storage field: {why}",
    )


def _local_name(path: str, what: str, default: str, taken: set[str]) -> str:
    segments = split_path(path, what)
    for name in (*segments[-1:], default):
        if name not in taken:
            return name
    return f"_{default}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _without_values(raw: str) -> str:
    """Cuts a key that could not be used at its parameters, which may hold credentials."""
    at = raw.lower().find("storage_params")
    shown = raw if at < 0 else f"{raw[:at]}storage_params..."
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
