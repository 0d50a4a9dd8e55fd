"""Objects from a store to files: many at once, large ones in pieces, broken ones again."""

import asyncio
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import obstore.store
from obstore.exceptions import BaseError

from mesh.puller.bodies import Body
from mesh.puller.failure import Code, PullFailure
from mesh.puller.object_errors import Errors
from mesh.puller.provider import Advance, Workshop

if TYPE_CHECKING:
    from obstore import Bytes, BytesStream, GetOptions, ObjectMeta

_WRITE_BYTES = 256 << 10
"""Bytes that go to the disk at once, at least; with the number of downloads this bounds the memory of pulls."""

_MD5 = re.compile(r"[0-9A-Fa-f]{32}")


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
    def size(self) -> int:
        return self.end - self.start

    @property
    def whole(self) -> bool:
        return self.size == self.file.size

    @property
    def md5(self) -> str:
        """What its content hashes to, where the tag may be that."""
        return self.file.e_tag.lower() if self.whole and _MD5.fullmatch(self.file.e_tag) else ""


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
        transfer = _Transfer(piece, advance)
        for attempt in range(1, settings.attempts + 1):
            transfer.hashed = bool(piece.md5) and self._errors.place not in self._workshop.other_tags
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
        try:
            if piece.size <= _WRITE_BYTES:
                content = await answer.bytes_async()
                body = transfer.body([content], target)
                await self._workshop.run(body.write)
            else:
                body = transfer.body(answer.stream(min_chunk_size=_WRITE_BYTES), target)
                try:
                    await body.arrive()
                except asyncio.CancelledError:
                    await self._workshop.run(body.give_up)
                    raise
        except (BaseError, ValueError) as error:
            raise self._broken(error, what) from None
        except OSError as error:
            # The client's own are OSErrors, too, where the disk's have a number.
            if error.errno is not None:
                raise
            raise self._broken(error, what) from None
        if transfer.bytes != piece.size:
            raise _BrokenBody(self._errors.cut_short(file.key, transfer.bytes, piece.size))
        self._check_hash(piece, body.md5, transfer)

    def _check_hash(self, piece: _Piece, md5: str, transfer: "_Transfer") -> None:
        if not transfer.hashed or md5 == piece.md5:
            return
        if md5 != transfer.hashed_before:
            transfer.hashed_before = md5
            raise _BrokenBody(self._errors.corrupt(piece.file.key, md5, piece.md5))
        # Accidents do not repeat themselves: a store that encrypts with its own keys has tags of another kind.
        self._workshop.other_tags.add(self._errors.place)

    def _broken(self, error: Exception, what: str) -> Exception:
        failure = self._errors.of(error, what)
        return _BrokenBody(failure) if failure.code in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED} else failure


def plain_e_tag(meta: "ObjectMeta") -> str:
    """The tag of an object's content. Not all stores put the quotes that belong there into listings."""
    return (meta["e_tag"] or "").replace('"', "")


class _Transfer:
    """Attempts to fetch a piece: counts the bytes of one, so that those of a broken one can be taken back.

    Attributes:
        bytes: of this attempt.
        hashed: whether the content is compared with its tag.
        hashed_before: what the content of an earlier attempt hashed to, where it was not what the tag says.
    """

    def __init__(self, piece: _Piece, advance: Advance) -> None:
        self._piece = piece
        self._advance = advance
        self.bytes = 0
        self.hashed = False
        self.hashed_before = ""

    def body(self, chunks: "Iterable[Bytes] | BytesStream", target: Path) -> Body:
        return Body(chunks, target, self._piece.start, self._piece.size, self.advance, hashed=self.hashed)

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
