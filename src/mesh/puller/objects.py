"""Models in an object store, whichever it is: what belongs to a path, and how it is fetched."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import obstore.store
from obstore.exceptions import BaseError

from mesh.puller.failure import Code, PullFailure
from mesh.puller.names import check_name, split_path
from mesh.puller.object_errors import Errors
from mesh.puller.provider import Advance, Workshop

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

_LIST_CHUNK = 1000
_WRITE_BYTES = 4 << 20
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


class ObjectProvider:
    """One bucket.

    A path stands for the objects below ``path/`` or, where there are none, for the object ``path``; an empty
    path for the whole bucket. So ``models/mnist`` never takes in ``models/mnist2``.
    """

    def __init__(self, store: obstore.store.ObjectStore, errors: Errors, workshop: Workshop) -> None:
        """Looks into a bucket.

        Args:
            store: the client, with retries of its own for requests that fail before a body comes.
            errors: words what the client raises.
            workshop: of the puller.
        """
        self._store = store
        self._errors = errors
        self._workshop = workshop

    async def find(self, path: str) -> "ObjectSource":
        """Lists what belongs to a path, all pages of it."""
        key = "/".join(split_path(path, "model path"))
        denied = None
        files: Sequence[RemoteFile] = ()
        try:
            files = await self._below(key)
        except PullFailure as error:
            # Credentials may be good for the one object and not for listing.
            if error.code is not Code.PERMISSION_DENIED or not key:
                raise
            denied = error
        if not files and key and not path.endswith("/"):
            files = await self._just(key, denied)
        if denied is not None and not files:
            raise denied
        if not files:
            raise PullFailure(Code.NOT_FOUND, self._errors.nothing_at(key))
        return ObjectSource(files, self._store, self._errors, self._workshop)

    async def _below(self, key: str) -> Sequence[RemoteFile]:
        found: list[RemoteFile] = []
        limit = self._workshop.settings.max_objects
        depth = len(key.split("/")) if key else 0
        try:
            async for chunk in obstore.list(self._store, key or None, chunk_size=_LIST_CHUNK):
                for meta in chunk:
                    name = tuple(meta["path"].split("/")[depth:])
                    found.append(RemoteFile(meta["path"], name, meta["size"], _e_tag(meta)))
                if len(found) > limit:
                    raise PullFailure(
                        Code.INVALID_ARGUMENT,
                        f"more than {limit} objects lie below '{key}/' in {self._errors.place}; "
                        "give the path of one model",
                    )
        except (BaseError, OSError, ValueError) as error:
            raise self._errors.of(error, f"list '{key}/'") from None
        return without_markers(found)

    async def _just(self, key: str, denied: PullFailure | None) -> Sequence[RemoteFile]:
        try:
            meta = await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return ()
        except (BaseError, OSError, ValueError) as error:
            raise denied or self._errors.of(error, f"look up '{key}'") from None
        return (RemoteFile(key, (), meta["size"], _e_tag(meta)),)


def without_markers(listed: Sequence[RemoteFile]) -> Sequence[RemoteFile]:
    """Leaves out the empty objects that stand for directories.

    Raises:
        PullFailure: INVALID_ARGUMENT, an object can be no file, or is in the place of a directory.
    """
    directories = {file.name[:depth] for file in listed for depth in range(len(file.name))}
    kept = []
    for file in listed:
        if file.name in directories or not file.name:
            if file.size == 0:
                continue
            raise PullFailure(
                Code.INVALID_ARGUMENT,
                f"object '{file.key}' has others below it, so it would have to be a file and a directory; "
                "rename one of them",
            )
        for segment in file.name:
            check_name(segment, f"part of object '{file.key}'")
        kept.append(file)
    return kept


class ObjectSource:
    """Objects that were found, to be fetched as they were then."""

    copied = True

    def __init__(
        self,
        files: Sequence[RemoteFile],
        store: obstore.store.ObjectStore,
        errors: Errors,
        workshop: Workshop,
    ) -> None:
        self._files = files
        self._store = store
        self._errors = errors
        self._workshop = workshop

    @property
    def size_bytes(self) -> int:
        """Of all objects, as listed."""
        return sum(file.size for file in self._files)

    async def fetch(self, target: Path, advance: Advance) -> None:
        """Fetches the objects, many at once; the first that fails ends it.

        Raises:
            PullFailure: ABORTED where an object is another than was found; else why it failed.
        """
        if any(file.name for file in self._files):
            await self._workshop.run(target.mkdir)
        waiting = iter(self._files)
        workers = min(len(self._files), self._workshop.settings.max_downloads)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work(waiting, target, advance))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _work(self, waiting: Iterator[RemoteFile], target: Path, advance: Advance) -> None:
        for file in waiting:
            async with self._workshop.downloads:
                await self._fetch(file, target.joinpath(*file.name), advance)

    async def _fetch(self, file: RemoteFile, target: Path, advance: Advance) -> None:
        settings = self._workshop.settings
        delay = settings.retry_delay_s
        for attempt in range(1, settings.attempts + 1):
            transfer = _Transfer(advance)
            try:
                await self._attempt(file, target, transfer)
            except _BrokenBody as broken:
                transfer.take_back()
                if attempt == settings.attempts:
                    raise broken.failure from None
            else:
                return
            # Those that broke together must not come back together.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(2 * delay, settings.max_retry_delay_s)

    async def _attempt(self, file: RemoteFile, target: Path, transfer: "_Transfer") -> None:
        what = f"fetch '{file.key}'"
        # A weak tag matches nothing; the comparison below has to do then.
        options: GetOptions = {"if_match": f'"{file.e_tag}"'} if file.e_tag and file.e_tag[:2] != "W/" else {}
        try:
            answer = await obstore.get_async(self._store, file.key, options=options)
        except FileNotFoundError:
            if file.size == 0:
                return  # the listed key ended in "/": it stands for an empty directory
            raise self._errors.changed(file.key) from None
        except (BaseError, OSError, ValueError) as error:
            raise self._errors.of(error, what) from None
        if answer.meta["size"] != file.size or (file.e_tag and _e_tag(answer.meta) != file.e_tag):
            raise self._errors.changed(file.key)
        output = await self._workshop.run(_create, target)
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
        if transfer.bytes != file.size:
            raise _BrokenBody(self._errors.cut_short(file.key, transfer.bytes, file.size))


def _e_tag(meta: "ObjectMeta") -> str:
    # Not all stores put the quotes that belong there into listings.
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


def _create(target: Path) -> BufferedWriter:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.open("wb")
