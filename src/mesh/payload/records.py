"""A payload as one JSON object: the form of KServe ModelMesh's ``http`` processor, with more members."""

import base64
from datetime import UTC, datetime
from typing import Any

import msgspec

from mesh.payload.messages import NotReadable, parse, to_json
from mesh.payload.payload import Data, Metadata, Payload


def record_of(payload: Payload, *, decoded: bool = False) -> dict[str, Any]:
    """A payload's record.

    ``id``, ``modelid``, ``vModelId``, ``data`` (base64), ``kind``, ``status`` and ``metadata`` are those of KServe
    ModelMesh; ``time``, ``method`` and, of streams, ``sequence`` come on top.

    Args:
        payload: to be told.
        decoded: its message, where it is one of the Open Inference Protocol, as ``message`` in the form of the
            protocol's REST API, instead of as ``data``. One that cannot be read stays ``data``.
    """
    record: dict[str, Any] = {
        "id": payload.id,
        "time": rfc3339(payload.time),
        "modelid": payload.model_id or None,
        "vModelId": payload.vmodel_id or None,
        "method": payload.method,
        "kind": payload.kind,
        "status": payload.status or "",
        "metadata": text_metadata(payload.metadata),
    }
    if payload.sequence:
        record["sequence"] = payload.sequence
    if decoded and payload.data is not None:
        try:
            record["message"] = to_json(parse(payload))
        except NotReadable:
            pass
        else:
            return record
    record["data"] = base64_of(payload.data)
    return record


def encode_record(payload: Payload, *, decoded: bool = False) -> bytes:
    """The same as JSON; what is no number in JSON (NaN, infinity) is null."""
    return msgspec.json.encode(record_of(payload, decoded=decoded))


def rfc3339(time: float) -> str:
    """A time as RFC 3339 has it, in UTC.

    Args:
        time: epoch seconds.
    """
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def text_metadata(metadata: Metadata) -> dict[str, str]:
    """Of each name the last value; bytes as base64."""
    return {name: value if isinstance(value, str) else base64_of(value) for name, value in metadata}


def base64_of(data: Data | None) -> str:
    """Bytes as base64; empty where there are none."""
    return "" if data is None else base64.b64encode(data).decode()
