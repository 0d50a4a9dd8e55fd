"""The storage Secret of a namespace."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any


def entries_of(secret: Mapping[str, Any] | None) -> dict[str, bytes]:
    """The entries of a Secret, decoded; none where it is not there."""
    data: Mapping[str, str] = {} if secret is None else secret.get("data") or {}
    return {name: _decoded(value) for name, value in data.items()}


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value)
    except binascii.Error:
        return b""
