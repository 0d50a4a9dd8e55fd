"""Configurations of processors as people may see them."""

import re
from typing import Any

from msgspec.structs import replace

from mesh.payload.definition import Definition

_MASK = "***"
#: Members of options that hold a secret by their name. Those that name a file do not.
_SECRET = re.compile(
    r"(?i)(secret|password|token|credential|authorization|cookie|api-?key|access_?key|account_?key|sas)"
)
_FILE = re.compile(r"(?i)(_file|_path)$")


def without_secrets(definition: Definition) -> Definition:
    """A definition with ``***`` for the password of its URI, and for options that hold a secret by their name."""
    return replace(definition, uri=without_password(definition.uri), options=_masked(definition.options))


def without_password(uri: str) -> str:
    """A URI with ``***`` for its password, if it has one."""
    scheme, separator, rest = uri.partition("://")
    authority = rest.partition("/")[0]
    user, at, _ = authority.rpartition("@")
    if not at or ":" not in user:
        return uri
    return f"{scheme}{separator}{user.partition(':')[0]}:{_MASK}@{rest[len(user) + 1 :]}"


def _masked(members: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _MASK
        if _SECRET.search(name) and not _FILE.search(name) and isinstance(value, str)
        else _masked(value)
        if isinstance(value, dict)
        else value
        for name, value in members.items()
    }
