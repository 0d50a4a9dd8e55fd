"""Objects from a store to files: many at once, large ones in pieces, broken ones again."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import obstore.store
from obstore.exceptions import BaseError

from mesh.puller.failure import Code, PullFailure
from mesh.puller.object_errors import Errors
from mesh.puller.provider import Advance, Workshop

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

_WRITE_BYTES = 1 << 20
"""Bytes that go to the disk at once; with the number of downloads this bounds the memory that pulls take."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An object, and the local file it becomes.

    Attributes:
        key: in the bucket.
        name: segments below the target; none where the object is the target.
        size: in bytes.
        e_tag: of its content, without the quotes; empty where the store tells none.
    """

    key: str
    name: tuple[str, ...]
    size: int
    e_tag: str


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of an object, or all of it: the bytes from ``start`` to before ``end``."""

    file: RemoteFile
    start: int
    end: int

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.end == self.file.size


class Transfers:
    """Fetches objects of one store.

    A large object is fetched in pieces, several at once: one connection is often slower than the network. Pieces and
    objects share the puller's limit of downloads.
    """

    def __init__(self, store: obstore.store.ObjectStore, errors: Errors, workshop: Workshop) -> None:
        """Fetches through a client.

        Args:
            store: the client, with retries of its own for requests that fail before a body comes.
            errors: words what the client raises.
            workshop: of the puller.
        """
        self._store = store
        self._errors = errors
        self._workshop = workshop

    async def fetch(self, files: Sequence[RemoteFile], target: Path, advance: Advance) -> None:
        """Fetches objects to files below ``target``; the first that fails ends it.

        Raises:
            PullFailure: ABORTED where an object is another than was found; else why it failed.
        """
        pieces = [piece for file in files for piece in self._pieces(file)]
        waiting = iter(pieces)
        workers = min(len(pieces), self._workshop.settings.max_downloads)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work(waiting, target, advance))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def _pieces(self, file: RemoteFile) -> Iterator[_Piece]:
        size = self._workshop.settings.piece_bytes
        # Without a tag, pieces could be of two objects. A remainder goes with the last whole piece.
        count = max(1, file.size // size) if file.e_tag else 1
        for number in range(count):
            last = number == count - 1
            yield _Piece(file, number * size, file.size if last else (number + 1) * size)

    async def _work(self, waiting: Iterator[_Piece], target: Path, advance: Advance) -> None:
        for piece in waiting:
            async with self._workshop.downloads:
                await self._fetch(piece, target.joinpath(*piece.file.name), advance)

    async def _fetch(self, piece: _Piece, target: Path, advance: Advance) -> None:
        settings = self._workshop.settings
        delay = settings.retry_delay_s
        for attempt in range(1, settings.attempts + 1):
            transfer = _Transfer(advance)
            try:
                await self._attempt(piece, target, transfer)
            except _BrokenBody as broken:
                transfer.take_back()
                if attempt == settings.attempts:
                    raise broken.failure from None
            else:
                return
            # Those that broke together must not come back together.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(2 * delay, settings.max_retry_delay_s)

    async def _attempt(self, piece: _Piece, target: Path, transfer: "_Transfer") -> None:
        file, what = piece.file, f"fetch '{piece.file.key}'"
        options: GetOptions = {}
        if file.e_tag and file.e_tag[:2] != "W/":
            # A weak tag matches nothing; the comparison below has to do then.
            options["if_match"] = f'"{file.e_tag}"'
        if not piece.whole:
            options["range"] = (piece.start, piece.end)
        try:
            answer = await obstore.get_async(self._store, file.key, options=options)
        except FileNotFoundError:
            if file.size == 0:
                return  # the listed key ended in "/": it stands for an empty directory
            raise self._errors.changed(file.key) from None
        except (BaseError, OSError, ValueError) as error:
            raise self._errors.of(error, what) from None
        if answer.meta["size"] != file.size or (file.e_tag and plain_e_tag(answer.meta) != file.e_tag):
            raise self._errors.changed(file.key)
        output = await self._workshop.run(_open, target, piece.start)
        try:
            chunks = aiter(answer.stream(min_chunk_size=_WRITE_BYTES))
            while True:
                try:
                    chunk = await anext(chunks, None)
                except (BaseError, OSError, ValueError) as error:
                    failure = self._errors.of(error, what)
                    if failure.code in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}:
                        raise _BrokenBody(failure) from None
                    raise failure from None
                if chunk is None:
                    break
                await self._workshop.run(output.write, chunk)
                transfer.advance(len(chunk))
        finally:
            await self._workshop.run(output.close)
        if transfer.bytes != piece.end - piece.start:
            raise _BrokenBody(self._errors.cut_short(file.key, transfer.bytes, piece.end - piece.start))


def plain_e_tag(meta: "ObjectMeta") -> str:
    """The tag of an object's content. Not all stores put the quotes that belong there into listings."""
    return (meta["e_tag"] or "").replace('"', "")


class _Transfer:
    """Counts the bytes of one attempt, so that those of a broken one can be taken back."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self.bytes = 0

    def advance(self, count: int) -> None:
        self.bytes += count
        self._advance(count)

    def take_back(self) -> None:
        self._advance(-self.bytes)
        self.bytes = 0


class _BrokenBody(Exception):
    def __init__(self, failure: PullFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _open(target: Path, start: int) -> BufferedRandom:
    """Opens a file to write from an offset on, and leaves what other pieces have written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    output = target.open("r+b")
    output.seek(start)
    return output
