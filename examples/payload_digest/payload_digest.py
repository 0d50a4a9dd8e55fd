"""Writes a line for each payload: when, which call, which model, and the SHA-256 of its bytes.

It proves later what was asked and answered, without keeping it. For instance

    mesh payloads set audit digest:///var/log/mesh/audit.txt --model credit-risk --option fields='["status"]'
"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from prometheus_client.metrics_core import Metric

from mesh.payload import InvalidProcessor, Options, Payload

FIELDS = ("status", "method", "vmodel_id")


class Digest:
    """Appends to one file."""

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        self._path = path
        self._fields = fields

    async def process(self, batch: Sequence[Payload]) -> None:
        """Digests and writes in a thread, since disks may be slow and other processors wait meanwhile."""
        await asyncio.to_thread(self._write, batch)

    def _write(self, batch: Sequence[Payload]) -> None:
        with self._path.open("a") as file:
            for payload in batch:
                digest = hashlib.sha256(payload.data or b"").hexdigest()
                more = [str(getattr(payload, field) or "-") for field in self._fields]
                print(
                    f"{payload.time:.3f}",
                    payload.id,
                    payload.kind,
                    payload.model_id,
                    digest,
                    *more,
                    file=file,
                )

    async def close(self, timeout_s: float) -> None:
        """Keeps nothing between batches."""

    def collect(self) -> Iterable[Metric]:
        """Has no metrics beside those that each processor has."""
        return ()


def open_digest(uri: str, options: Options) -> Digest:
    """What the entry point names."""
    fields = options.members.get("fields", [])
    if unknown := [field for field in fields if field not in FIELDS]:
        raise InvalidProcessor(f"options.fields has {unknown[0]!r}; there are {', '.join(FIELDS)}")
    path = Path(unquote(urlsplit(uri).path))
    if not path.parent.is_dir():
        raise InvalidProcessor(f"{uri}: there is no directory {path.parent}")
    return Digest(path, fields)
