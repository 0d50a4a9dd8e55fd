"""Parquet files while they grow: rows gather in row groups, and a file gets its name when it is whole."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mesh.payload.sinks.columns import Batches, Group
from mesh.payload.sinks.paths import FileNames


@dataclass(frozen=True, slots=True)
class Whole:
    """A file that is written.

    Attributes:
        part: where it lies.
        name: where it belongs, relative to the sink's folder.
        rows: in it.
    """

    part: Path
    name: str
    rows: int


@dataclass(slots=True)
class _Growing:
    part: Path
    name: str
    begun: float
    file: Any
    writer: Any
    rows: int = 0
    waiting: list[Any] = field(default_factory=list)
    waiting_bytes: int = 0

    @property
    def size(self) -> int:
        return int(self.file.tell()) + self.waiting_bytes


class ParquetFiles:
    """The files of a sink that are being written, one for each group. Blocks; not for several threads at once."""

    def __init__(
        self,
        folder: Path,
        names: FileNames,
        lost: Callable[[int], None],
        *,
        max_bytes: int,
        max_seconds: float,
        row_group_bytes: int,
        most: int,
        compression: str,
    ) -> None:
        """Begins without files.

        Args:
            folder: for files that are not whole.
            names: of the files.
            lost: is told of rows of a file that could not be written on.
            max_bytes: of a file, by what it takes before the newest row group is compressed.
            max_seconds: that a file grows for.
            row_group_bytes: in memory, of each file.
            most: files at a time; the oldest is ended for another one.
            compression: as pyarrow has it.
        """
        self._folder = folder
        self._names = names
        self._lost = lost
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._row_group_bytes = row_group_bytes
        self._most = most
        self._compression = compression
        self._growing: dict[Group, _Growing] = {}

    def add(self, batches: Batches) -> list[Whole]:
        """Takes rows.

        Returns: files that are whole with them.

        Raises:
            OSError: no file could be begun; nothing was taken.
        """
        done = self._make_room(batches)
        for group in batches:
            if group not in self._growing:
                self._growing[group] = self._begin(group)
        for group, batch in batches.items():
            growing = self._growing[group]
            growing.waiting.append(batch)
            growing.waiting_bytes += batch.nbytes
            growing.rows += batch.num_rows
            if growing.waiting_bytes >= self._row_group_bytes:
                self._flush(group, growing)
            if group in self._growing and growing.size >= self._max_bytes:
                done += self._end(group)
        return done

    def end_old(self) -> list[Whole]:
        """Ends the files that have grown for long enough."""
        now = time.time()
        old = [group for group, one in self._growing.items() if now - one.begun >= self._max_seconds]
        return [whole for group in old for whole in self._end(group)]

    def end_all(self) -> list[Whole]:
        """Ends all files."""
        return [whole for group in list(self._growing) for whole in self._end(group)]

    def _make_room(self, batches: Batches) -> list[Whole]:
        new = sum(group not in self._growing for group in batches)
        others = [group for group in self._growing if group not in batches]
        others.sort(key=lambda group: self._growing[group].begun)
        excess = max(0, len(self._growing) + new - self._most)
        return [whole for group in others[:excess] for whole in self._end(group)]

    def _begin(self, group: Group) -> _Growing:
        now = time.time()
        name = self._names.next(now)
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{name}.part"
        file = part.open("xb")
        writer = pq.ParquetWriter(file, group.schema(), compression=self._compression)
        return _Growing(part, f"{group.folder}/{name}" if group.folder else name, now, file, writer)

    def _flush(self, group: Group, growing: _Growing) -> None:
        if not growing.waiting:
            return
        table = pa.Table.from_batches(growing.waiting)
        growing.waiting, growing.waiting_bytes = [], 0
        try:
            growing.writer.write_table(table, row_group_size=max(1, table.num_rows))
        except OSError:
            self._abandon(group, growing)

    def _end(self, group: Group) -> list[Whole]:
        growing = self._growing[group]
        self._flush(group, growing)
        if self._growing.pop(group, None) is None:
            return []
        try:
            growing.writer.close()
            growing.file.flush()
            os.fsync(growing.file.fileno())
            growing.file.close()
        except OSError:
            self._abandon(group, growing)
            return []
        return [Whole(growing.part, growing.name, growing.rows)]

    def _abandon(self, group: Group, growing: _Growing) -> None:
        # Without its footer nobody can read the file, so what is in it is lost with what was to be written.
        self._growing.pop(group, None)
        self._lost(growing.rows)
        growing.file.close()
        growing.part.unlink(missing_ok=True)
