"""Models in an object store, whichever it is: what belongs to a path, and how it is fetched."""

from collections.abc import Sequence
from pathlib import Path

import obstore
import obstore.store
from obstore.exceptions import BaseError

from mesh.puller.contents import identity_of
from mesh.puller.failure import Code, PullFailure
from mesh.puller.names import check_name, split_path
from mesh.puller.object_errors import Errors
from mesh.puller.provider import Advance, Workshop
from mesh.puller.transfers import RemoteFile, Transfers, plain_e_tag

_LIST_CHUNK = 1000


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
                    found.append(RemoteFile(meta["path"], name, meta["size"], plain_e_tag(meta)))
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
        return (RemoteFile(key, (), meta["size"], plain_e_tag(meta)),)


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
        self._place = errors.place
        self._transfers = Transfers(store, errors, workshop)
        self._workshop = workshop

    @property
    def identity(self) -> str:
        """By the tags of the objects; empty where one has none, or one that says little."""
        if any(not file.e_tag or file.e_tag.startswith("W/") for file in self._files):
            return ""
        listed = sorted((file.key, file.name, file.size, file.e_tag) for file in self._files)
        return identity_of(self._place, listed)

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
        await self._transfers.fetch(self._files, target, advance)
