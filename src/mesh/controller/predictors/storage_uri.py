"""Reads the ``storageUri`` of an InferenceService."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from mesh.controller.predictors.predictor import InvalidSpec

_AZURE = ".blob.core.windows.net"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9.+-]*)://")


@dataclass(frozen=True, slots=True)
class Located:
    """Where a ``storageUri`` leads: a path, and parameters of the storage that holds it."""

    path: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def locate(uri: str) -> Located:
    """Takes a ``storageUri`` apart as KServe ModelMesh does.

    An address of a scheme that the puller knows besides (``hf``, ``oci``, one that was added) becomes the path as it
    is.

    Raises:
        InvalidSpec: it is no address, or one without the part that says where.
    """
    found = _SCHEME.match(uri)
    if found is None:
        raise InvalidSpec(
            f'storageUri "{uri}" is no address: write it as s3://bucket/path or pvc://claim/path'
        )
    scheme, rest = found.group(1).lower(), uri[found.end() :]
    place, _, path = rest.partition("/")
    if not place:
        raise InvalidSpec(f'storageUri "{uri}" does not say where: write it as {scheme}://PLACE/path')
    match scheme:
        case "pvc":
            return Located(path, {"type": "pvc", "name": place})
        case "s3":
            return Located(path, {"type": "s3", "bucket": place})
        case "gs":
            return Located(path, {"type": "gcs", "bucket": place})
        case "http" | "https":
            return _on_the_web(uri)
        case _:
            return Located(uri)


def _on_the_web(uri: str) -> Located:
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError as problem:
        raise InvalidSpec(f'storageUri "{uri}" cannot be read: {problem}') from problem
    path = unquote(parts.path).lstrip("/")
    if host.endswith(_AZURE):
        container, _, path = path.partition("/")
        if not container:
            raise InvalidSpec(
                f'storageUri "{uri}" names no container: write it as https://{host}/container/path'
            )
        account = host.removesuffix(_AZURE).partition(".")[0]
        return Located(path, {"type": "azure", "container": container, "account_name": account})
    query = f"?{parts.query}" if parts.query else ""
    return Located(path, {"type": "http", "url": f"{parts.scheme}://{parts.netloc}{query}"})
