"""The scheme ``jsonl``: payloads as lines of JSON in files of a folder."""

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal

import msgspec
from prometheus_client.metrics_core import Metric

from mesh.payload.members import read_members, require
from mesh.payload.payload import Payload
from mesh.payload.processor import Options
from mesh.payload.records import encode_record
from mesh.payload.sinks.paths import FileNames, folder_of


class JsonLinesMembers(msgspec.Struct, frozen=True):
    """The members of the options.

    Attributes:
        decoded: tensors as the protocol's REST form has them, instead of messages in base64.
        max_bytes: of a file; it is ended with the batch that reaches it.
        max_seconds: after which a file is ended with the next batch.
        keep_files: of this instance, the newest; 0 keeps all.
        fsync: when the disk must have what was written: before a batch counts as taken, when a file is ended, or when
            the system sees fit.
    """

    decoded: bool = False
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 * 2**20
    max_seconds: Annotated[float, msgspec.Meta(gt=0)] = 3_600.0
    keep_files: Annotated[int, msgspec.Meta(ge=0)] = 0
    fsync: Literal["batch", "file", "never"] = "file"


def open_json_lines(uri: str, options: Options) -> "JsonLines":
    """Opens the sink; the URI is ``jsonl:///folder``.

    Raises:
        InvalidProcessor: the URI names no folder, or a member of the options cannot be.
    """
    members = read_members(options, JsonLinesMembers)
    if members.decoded:
        require(options, "numpy", "payload", "options.decoded")
    return JsonLines(folder_of(uri, options), members, options)


class JsonLines:
    """Appends to one file at a time. A batch is written whole or not at all."""

    def __init__(self, folder: Path, members: JsonLinesMembers, options: Options) -> None:
        """Begins without a file.

        Args:
            folder: made when it is first needed.
            members: of the configuration.
            options: of the processor.
        """
        self._folder = folder
        self._members = members
        self._names = FileNames(options.instance_id or "mesh", ".jsonl")
        self._file: int | None = None
        self._size = 0
        self._opened = 0.0
        # A batch that was given up goes on in its thread.
        self._turn = Lock()

    async def process(self, batch: Sequence[Payload]) -> None:
        """Appends a line for each payload.

        Raises:
            OSError: nothing of the batch was written.
        """
        await asyncio.to_thread(self._append, batch)

    async def close(self, timeout_s: float) -> None:
        """Ends the file."""
        await asyncio.to_thread(self._close)

    def collect(self) -> Iterable[Metric]:
        """None."""
        return ()

    def _append(self, batch: Sequence[Payload]) -> None:
        lines = b"".join(encode_record(payload, decoded=self._members.decoded) + b"\n" for payload in batch)
        with self._turn:
            now = time.time()
            if self._file is not None and now - self._opened >= self._members.max_seconds:
                self._end()
            file = self._file if self._file is not None else self._begin(now)
            try:
                rest = memoryview(lines)
                while rest:
                    rest = rest[os.write(file, rest) :]
                if self._members.fsync == "batch":
                    os.fdatasync(file)
            except OSError:
                # Half a line would be one nobody can read, and what comes next would be part of it.
                os.ftruncate(file, self._size)
                raise
            self._size += len(lines)
            if self._size >= self._members.max_bytes:
                self._end()

    def _begin(self, now: float) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / self._names.next(now)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        self._size = 0
        self._opened = now
        if self._members.keep_files:
            for old in self._names.own(self._folder)[: -self._members.keep_files]:
                old.unlink(missing_ok=True)
        return self._file

    def _end(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if self._members.fsync != "never":
                os.fsync(file)
        finally:
            os.close(file)

    def _close(self) -> None:
        with self._turn:
            self._end()
