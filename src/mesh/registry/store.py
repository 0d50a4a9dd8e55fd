"""The interface of a key-value store: what the registry needs of etcd, and no more.

Keys are text, values bytes. The store as a whole has one revision, which each transaction that changes
something raises by one; an entry knows at which revision it was created and last changed.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

WRITE_TIMEOUT = 3.5
"""Default deadline of a write, seconds, as in KServe ModelMesh."""
LIST_TIMEOUT = 300.0
"""Default deadline of listing a prefix, seconds, as in KServe ModelMesh."""
PAGE_SIZE = 5_000
"""Entries fetched at once while listing: some 2 MB of model records."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A key with its value.

    Attributes:
        key: as the caller writes it, without the store's root prefix. Bytes of a foreign key that are no
            UTF-8 appear as lone surrogates and go back unchanged.
        value: as stored.
        mod_revision: revision of the last change.
        create_revision: revision of the creation.
        lease: with which the entry ends; 0 for none.
    """

    key: str
    value: bytes
    mod_revision: int
    create_revision: int
    lease: int = 0


class Event(msgspec.Struct, frozen=True, gc=False):
    """A change of one key.

    Attributes:
        key: which.
        entry: what it is now; None where it was deleted.
        revision: of the change.
    """

    key: str
    entry: Entry | None
    revision: int


class Batch(msgspec.Struct, frozen=True, gc=False):
    """What a watch delivers at once.

    Attributes:
        events: in order of revision, never part of a revision; empty where the store only tells that the
            watch is alive.
        revision: every change up to here has been delivered.
    """

    events: Sequence[Event]
    revision: int


class Page(msgspec.Struct, frozen=True, gc=False):
    """Part of a prefix.

    Attributes:
        entries: in order of their keys' bytes.
        revision: of the store, at which they are what they are.
        more: whether there are entries behind the last.
    """

    entries: Sequence[Entry]
    revision: int
    more: bool


class Put(msgspec.Struct, frozen=True, gc=False):
    """Writes a key; with a lease, the entry ends when the lease does."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Deletes a key; no harm where there is none."""

    key: str


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a transaction went.

    Attributes:
        committed: whether it was applied; if not, nothing of it was.
        revision: of the store right after it.
        entries: where it was not: what each expected key is at that revision, None for absent.
    """

    committed: bool
    revision: int
    entries: Mapping[str, Entry | None]


@dataclass(frozen=True, slots=True)
class Listing:
    """A whole prefix, every entry as it was at one revision of the store."""

    entries: Sequence[Entry]
    revision: int


class Store(ABC):
    """A client of a key-value store.

    Every call has a deadline and raises:
        StoreUnavailable: no answer in time, and no effect.
        OutcomeUnknown: a write may or may not have been applied.
        StoreDenied: user, password or certificate are not accepted.
        StoreRefused: the request is faulty.

    Use as an async context manager, or call `close`.
    """

    @property
    @abstractmethod
    def description(self) -> str:
        """Which store this is, for messages: its kind and where it is."""

    async def get(self, key: str, *, timeout: float = WRITE_TIMEOUT) -> Entry | None:
        """Reads one key, after every write that was answered before.

        Returns:
            The entry, or None where there is none.
        """
        entry, _ = await self.read(key, timeout=timeout)
        return entry

    @abstractmethod
    async def read(self, key: str, *, timeout: float = WRITE_TIMEOUT) -> tuple[Entry | None, int]:
        """Reads one key as `get` does.

        Returns:
            The entry or None, and the store's revision at which it is so.
        """

    @abstractmethod
    async def page(
        self,
        prefix: str,
        *,
        after: str | None = None,
        revision: int = 0,
        limit: int = PAGE_SIZE,
        timeout: float = LIST_TIMEOUT,
    ) -> Page:
        """Reads part of a prefix.

        Args:
            prefix: of the keys; must not be empty.
            after: only keys behind this one, in order of their bytes.
            revision: of the store at which to read; 0 for the newest.
            limit: at most so many entries.
            timeout: seconds.

        Raises:
            Compacted: the revision is gone.
        """

    async def list(self, prefix: str, *, timeout: float = LIST_TIMEOUT) -> Listing:
        """Reads a whole prefix at one revision, page by page.

        Raises:
            Compacted: the revision of the first page was compacted away before the last one.
        """
        entries: list[Entry] = []
        page = await self.page(prefix, timeout=timeout)
        entries.extend(page.entries)
        while page.more:
            page = await self.page(prefix, after=entries[-1].key, revision=page.revision, timeout=timeout)
            entries.extend(page.entries)
        return Listing(entries, page.revision)

    @abstractmethod
    async def transact(
        self,
        expected: Mapping[str, int],
        operations: Sequence[Put | Delete],
        *,
        timeout: float = WRITE_TIMEOUT,
    ) -> Outcome:
        """Applies all operations at one revision, or none.

        Args:
            expected: key to the mod_revision it must have, 0 where it must not exist; empty for an
                unconditional write.
            operations: at most one for each key.
            timeout: seconds.

        Raises:
            LeaseGone: an operation names a lease that has ended.
        """

    async def put(self, key: str, value: bytes, *, lease: int = 0, timeout: float = WRITE_TIMEOUT) -> int:
        """Writes a key whatever it was; returns the revision."""
        return (await self.transact({}, [Put(key, value, lease)], timeout=timeout)).revision

    async def delete(self, key: str, *, timeout: float = WRITE_TIMEOUT) -> int:
        """Deletes a key whatever it was; returns the revision."""
        return (await self.transact({}, [Delete(key)], timeout=timeout)).revision

    @abstractmethod
    def watch(self, prefix: str, revision: int) -> AsyncGenerator[Batch, None]:
        """Follows the changes of a prefix, for as long as it is iterated.

        It resumes by itself when the connection breaks, without loss or repetition. While nothing changes it
        delivers an empty batch every few seconds, so that a consumer can tell quiet from broken.

        Args:
            prefix: of the keys; must not be empty.
            revision: the first one wanted, usually that of a listing plus one.

        Raises:
            Compacted: changes from the wanted revision on are no longer known, or the store has gone back
                behind it, as after a restore from a backup.
            StoreDenied: this user may not watch the prefix.
        """

    @abstractmethod
    async def grant(self, ttl: float, *, timeout: float = WRITE_TIMEOUT) -> int:
        """Asks for a lease that ends `ttl` seconds after it was last kept alive; returns its id."""

    @abstractmethod
    async def keep_alive(self, lease: int, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Starts a lease's time anew.

        Raises:
            LeaseGone: it has ended.
        """

    @abstractmethod
    async def revoke(self, lease: int, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Ends a lease and deletes its keys; no harm where it has ended."""

    @abstractmethod
    async def close(self) -> None:
        """Ends every watch and connection. Leases are left to their sessions."""

    async def __aenter__(self) -> "Store":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
