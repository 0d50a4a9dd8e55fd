"""What is logged of single requests."""

import re
from dataclasses import dataclass

import msgspec

from mesh.instance.settings.fields import boolean, setting

_HEADER = re.compile(r"[0-9a-z_.-]+")
_Object = msgspec.json.Decoder(dict[str, str])


def logged_headers(value: str) -> tuple[tuple[str, str], ...]:
    """A JSON object of request headers and the names that their values have in the log, as KServe ModelMesh has it."""
    try:
        headers = _Object.decode(value)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{error}; give an object of header names and names in the log") from None
    if not headers:
        raise ValueError("the object is empty: name a header, or unset it")
    for header, name in headers.items():
        if not _HEADER.fullmatch(header.lower()) or not name:
            raise ValueError(
                f"{header!r}: {name!r} cannot be used: header names have letters, digits, '-', '_' and '.', and names "
                "in the log at least one character"
            )
    return tuple((header.lower(), name) for header, name in headers.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLogSettings:
    """Of one instance. See `describe` for meanings."""

    each_invocation: bool = setting(
        "MM_LOG_EACH_INVOKE",
        boolean,
        "whether each request that the model server gets is logged; for finding faults",
        default=False,
    )
    headers: tuple[tuple[str, str], ...] = setting(
        "MM_LOG_REQUEST_HEADERS",
        logged_headers,
        'JSON object of request headers that go into the log, {"header": "name in the log"}',
        default=(),
    )
