"""A file with the last known records, for an instance that starts while the store is away.

It is one line of JSON about itself, with the checksum of what follows, then one line for each record: a JSON array of
the record's table, its id and its value as text. It is replaced as a whole, so that whatever happens while it is
written there is always one that can be read.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mesh.registry.mirror import Mirror

log = logging.getLogger(__name__)

#: Records that are encoded in one go, while nothing else runs.
_AT_ONCE = 1_000
_FORMAT = 1


class InvalidSnapshot(Exception):
    """The file is no snapshot of this mesh's records. The message says why."""


class _Header(msgspec.Struct, kw_only=True):
    format: int
    keys: tuple[str, ...]
    taken_ms: int
    sha256: str


class Snapshot(msgspec.Struct, frozen=True):
    """What a file held.

    Attributes:
        taken_ms: when, epoch milliseconds.
        tables: values by id, by the prefix of their keys.
    """

    taken_ms: int
    tables: Mapping[str, Mapping[str, bytes]]


_Line = msgspec.json.Decoder(tuple[str, str, str])


class SnapshotFile:
    """Keeps a file in step with mirrors.

    Args:
        path: of the file; its folder must be there and writable.
        mirrors: of the records to keep. A file is of use only to mirrors of the same prefixes.

    Attributes:
        taken_ms: when the file was written last by this process, epoch milliseconds; 0 for not yet.
    """

    def __init__(self, path: Path, mirrors: tuple[Mirror[Any], ...]) -> None:
        self._path = path
        self._mirrors = mirrors
        self._changed = True
        self.taken_ms = 0

    def changed(self) -> None:
        """Something has changed that is worth writing."""
        self._changed = True

    async def write(self) -> None:
        """Writes the records, if they have changed and the mirrors are complete.

        Raises:
            OSError: the file could not be written; the one before is still there.
        """
        if not self._changed or not all(mirror.ready for mirror in self._mirrors):
            return
        self._changed = False
        try:
            lines: list[bytes] = []
            for mirror in self._mirrors:
                ids = tuple(mirror)
                for start in range(0, len(ids), _AT_ONCE):
                    lines.extend(_lines(mirror, ids[start : start + _AT_ONCE]))
                    await asyncio.sleep(0)
            taken_ms = time.time_ns() // 1_000_000
            keys = tuple(mirror.prefix for mirror in self._mirrors)
            await asyncio.to_thread(_replace, self._path, keys, taken_ms, lines)
        except BaseException:
            self._changed = True
            raise
        self.taken_ms = taken_ms

    def read(self) -> Snapshot:
        """Reads the file.

        Raises:
            FileNotFoundError: there is none.
            InvalidSnapshot: it is damaged, or of another mesh.
        """
        try:
            first, _, rest = self._path.read_bytes().partition(b"\n")
            header = msgspec.json.decode(first, type=_Header)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InvalidSnapshot(f"{self._path} cannot be read: {error}") from None
        except msgspec.MsgspecError as error:
            raise InvalidSnapshot(f"{self._path} is no snapshot: {error}") from None
        if header.format != _FORMAT:
            raise InvalidSnapshot(
                f"{self._path} has format {header.format}, and this release reads {_FORMAT}"
            )
        keys = tuple(mirror.prefix for mirror in self._mirrors)
        if header.keys != keys:
            raise InvalidSnapshot(
                f"{self._path} is of another mesh: it has keys below {header.keys[0]}, wanted are those below {keys[0]}"
            )
        if hashlib.sha256(rest).hexdigest() != header.sha256:
            raise InvalidSnapshot(f"{self._path} is damaged: its checksum does not fit")
        tables: dict[str, dict[str, bytes]] = {prefix: {} for prefix in keys}
        for line in rest.split(b"\n") if rest else ():
            prefix, record_id, value = _Line.decode(line)
            tables[prefix][record_id] = value.encode()
        return Snapshot(header.taken_ms, tables)


def _lines(mirror: Mirror[Any], ids: tuple[str, ...]) -> Iterator[bytes]:
    for record_id in ids:
        record = mirror.get(record_id)
        # An instance that leaves is gone by the time that a snapshot is of use.
        if record is None or getattr(record, "shutting_down", False):
            continue
        try:
            yield msgspec.json.encode((mirror.prefix, record_id, mirror.codec.encode(record).decode()))
        except UnicodeError:
            log.debug("left out of the snapshot, since its id is no text: %r", record_id)


def _replace(path: Path, keys: tuple[str, ...], taken_ms: int, lines: list[bytes]) -> None:
    rest = b"\n".join(lines)
    header = _Header(format=_FORMAT, keys=keys, taken_ms=taken_ms, sha256=hashlib.sha256(rest).hexdigest())
    new = path.with_name(f".{path.name}.new")
    # Records may hold what only the mesh should read, such as keys of models.
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(header) + b"\n" + rest)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
