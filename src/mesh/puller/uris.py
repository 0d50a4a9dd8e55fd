"""Model paths that are addresses of their own, such as ``s3://bucket/path``; pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from mesh.puller.failure import Code, PullFailure

_SCHEME = re.compile(r"([a-z][a-z0-9.+-]*)://", re.IGNORECASE)
_AZURE_HOST = re.compile(r"([a-z0-9]{3,24})\.(?:blob\.core\.windows\.net|z\d+\.blob\.storage\.azure\.net)")
_BUCKETS = {"s3": ("s3", "bucket"), "gs": ("gcs", "bucket"), "pvc": ("pvc", "name")}


@dataclass(frozen=True, slots=True)
class Located:
    """Where an address leads.

    Attributes:
        type: the provider.
        path: within the place.
        fields: of the storage configuration that the address tells; they go before those of a stored one.
    """

    type: str
    path: str
    fields: Mapping[str, str] = field(default_factory=dict)


def scheme_of(path: str) -> str:
    """The scheme of an address in lower case; empty for a plain path."""
    found = _SCHEME.match(path)
    return found.group(1).lower() if found else ""


def locate(uri: str) -> Located:
    """Takes an address apart, as KServe does with a ``storageUri``.

    A scheme that is not known here is the type of a provider that was added, which gets the rest as its path.

    Raises:
        PullFailure: INVALID_ARGUMENT, a part is missing.
    """
    scheme = scheme_of(uri)
    rest = uri[len(scheme) + 3 :]
    match scheme:
        case "s3" | "gs" | "pvc":
            kind, name = _BUCKETS[scheme]
            first, _, path = rest.partition("/")
            if not first:
                raise _malformed(uri, f"{scheme}://{name}/path")
            return Located(kind, path, {name: first})
        case "file":
            return Located("local", unquote(rest))
        case "http" | "https":
            return _on_the_web(uri)
        case _:
            if not rest:
                raise _malformed(uri, f"{scheme}://path")
            return Located(scheme, rest)


def _on_the_web(uri: str) -> Located:
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if not host:
        raise _malformed(uri, "https://host/path")
    path = unquote(parts.path).lstrip("/")
    if found := _AZURE_HOST.fullmatch(host):
        container, _, path = path.partition("/")
        if not container:
            raise _malformed(uri, "https://account.blob.core.windows.net/container/path")
        return Located("azure", path, {"account_name": found.group(1), "container": container})
    query = f"?{parts.query}" if parts.query else ""
    return Located("http", path, {"url": f"{parts.scheme}://{parts.netloc}/{query}"})


def _malformed(uri: str, example: str) -> PullFailure:
    shown = uri.partition("?")[0]
    return PullFailure(
        Code.INVALID_ARGUMENT, f"model path '{shown}' is no whole address; it looks like {example}"
    )
