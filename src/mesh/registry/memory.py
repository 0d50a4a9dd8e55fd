"""A store inside the process, with the semantics of etcd: revisions, watches, compaction, leases.

For laptop mode, simulation, and tests of what is built on a store. Several clients may share one
`MemoryCluster`, each standing for an instance of its own.
"""

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import islice

import msgspec

from mesh.registry.errors import Compacted, LeaseGone, OutcomeUnknown, StoreRefused, StoreUnavailable
from mesh.registry.store import (
    LIST_TIMEOUT,
    PAGE_SIZE,
    WRITE_TIMEOUT,
    Batch,
    Delete,
    Entry,
    Event,
    Outcome,
    Page,
    Put,
    Store,
)

MAX_OPERATIONS = 128
"""Operations of one transaction, etcd's default limit."""
MAX_REQUEST_BYTES = 1_572_864
"""Size of one transaction, etcd's default limit."""
IDLE_SECONDS = 5.0
"""A watch tells after so long without a change that it is alive."""


class _Change(msgspec.Struct, frozen=True, gc=False):
    event: Event
    before: Entry | None


class MemoryCluster:
    """The data that memory stores share, and the faults that can befall it.

    Args:
        history: revisions kept for watches and paged listings; older ones are compacted away.
    """

    def __init__(self, *, history: int = 10_000) -> None:
        self.revision = 1
        self._entries: dict[str, Entry] = {}
        self._ordered: list[str] = []
        self._history: deque[_Change] = deque()
        self._keep = history
        self._compacted = 0
        self._leases: dict[int, set[str]] = {}
        self._last_lease = 0
        self._stopped = False
        self._answers_to_lose = 0
        self._watchers: set[asyncio.Event] = set()

    def client(self) -> "MemoryStore":
        """Returns a new client of this cluster."""
        return MemoryStore(self)

    def stop(self) -> None:
        """Makes every call fail and every watch stand still until `start`."""
        self._stopped = True

    def start(self) -> None:
        """Ends what `stop` began."""
        self._stopped = False
        self._wake()

    def lose_answers(self, count: int) -> None:
        """Applies the next `count` transactions and tells their callers that the outcome is unknown."""
        self._answers_to_lose = count

    def compact(self, revision: int) -> None:
        """Forgets what was before a revision, as etcd does on its operator's word."""
        self._compacted = max(self._compacted, min(revision, self.revision))
        while self._history and self._history[0].event.revision < self._compacted:
            self._history.popleft()
        self._wake()

    def expire(self, lease: int) -> None:
        """Ends a lease as if its time had run out."""
        keys = self._leases.pop(lease, set())
        if keys:
            self._apply([Delete(key) for key in sorted(keys)])

    def grant(self) -> int:
        """Returns a new lease."""
        self._last_lease += 1
        self._leases[self._last_lease] = set()
        return self._last_lease

    def has_lease(self, lease: int) -> bool:
        """Tells whether a lease has not ended."""
        return lease in self._leases

    def leases(self) -> Sequence[int]:
        """Returns the leases that have not ended."""
        return tuple(self._leases)

    def check_reachable(self) -> None:
        """Raises StoreUnavailable between `stop` and `start`."""
        if self._stopped:
            raise StoreUnavailable("the memory store is stopped: start it")

    @property
    def stopped(self) -> bool:
        """Whether the cluster is between `stop` and `start`."""
        return self._stopped

    def read(self, key: str) -> Entry | None:
        """Returns the newest entry of a key."""
        return self._entries.get(key)

    def page(self, prefix: str, after: str | None, revision: int, limit: int) -> Page:
        """Returns part of a prefix as it was at a revision, 0 for now."""
        revision = revision or self.revision
        if revision < self._compacted:
            raise Compacted(
                f"revision {revision} is compacted away, the oldest left is {self._compacted}: list again",
                self._compacted,
            )
        past = self._differences_since(revision)
        start = bisect_left(self._ordered, prefix) if after is None else bisect_right(self._ordered, after)
        keys = []
        for key in islice(self._ordered, start, None):
            if not key.startswith(prefix):
                break
            keys.append(key)
        vanished = [
            key
            for key in past
            if key.startswith(prefix) and (after is None or key > after) and key not in self._entries
        ]
        if vanished:
            keys = sorted({*keys, *vanished})
        entries = [entry for key in keys if (entry := past.get(key, self._entries.get(key))) is not None]
        return Page(entries[:limit], revision, len(entries) > limit)

    def transact(self, expected: Mapping[str, int], operations: Sequence[Put | Delete]) -> Outcome:
        """Applies a transaction, or tells what stood against it."""
        _check_size(operations)
        current = {key: self._entries.get(key) for key in expected}
        if any((entry.mod_revision if entry else 0) != expected[key] for key, entry in current.items()):
            return Outcome(False, self.revision, current)
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                raise LeaseGone(f"lease {operation.lease:x} of key {operation.key!r} has ended")
        self._apply(operations)
        if self._answers_to_lose:
            self._answers_to_lose -= 1
            raise OutcomeUnknown("the memory store lost the answer on purpose: read the keys to learn more")
        return Outcome(True, self.revision, {})

    def changes_since(self, prefix: str, revision: int) -> Sequence[Event]:
        """Returns the changes of a prefix from a revision on.

        Raises:
            Compacted: some of them are forgotten.
        """
        if revision > self.revision + 1:
            raise Compacted(f"the store is at revision {self.revision}, behind {revision}: list again")
        if revision < self._compacted:
            raise Compacted(
                f"changes from revision {revision} on are compacted away, the oldest left is"
                f" {self._compacted}: list again",
                self._compacted,
            )
        found: list[Event] = []
        for change in reversed(self._history):
            if change.event.revision < revision:
                break
            if change.event.key.startswith(prefix):
                found.append(change.event)
        found.reverse()
        return found

    def add_watcher(self, wake: asyncio.Event) -> None:
        """Has an event set at every change."""
        self._watchers.add(wake)

    def drop_watcher(self, wake: asyncio.Event) -> None:
        """Ends what `add_watcher` began."""
        self._watchers.discard(wake)

    def _differences_since(self, revision: int) -> Mapping[str, Entry | None]:
        past: dict[str, Entry | None] = {}
        for change in reversed(self._history):
            if change.event.revision <= revision:
                break
            past[change.event.key] = change.before
        return past

    def _apply(self, operations: Sequence[Put | Delete]) -> None:
        effective = [
            operation
            for operation in operations
            if isinstance(operation, Put) or operation.key in self._entries
        ]
        if not effective:
            return
        self.revision += 1
        for operation in effective:
            before = self._entries.get(operation.key)
            if before is not None and before.lease:
                self._leases.get(before.lease, set()).discard(operation.key)
            entry = self._put(operation, before) if isinstance(operation, Put) else None
            if entry is None:
                del self._entries[operation.key]
                del self._ordered[bisect_left(self._ordered, operation.key)]
            self._history.append(_Change(Event(operation.key, entry, self.revision), before))
        if len(self._history) > self._keep:
            self.compact(self._history[len(self._history) - self._keep].event.revision)
        self._wake()

    def _put(self, operation: Put, before: Entry | None) -> Entry:
        created = before.create_revision if before else self.revision
        entry = Entry(operation.key, operation.value, self.revision, created, operation.lease)
        self._entries[operation.key] = entry
        if before is None:
            insort(self._ordered, operation.key)
        if operation.lease:
            self._leases[operation.lease].add(operation.key)
        return entry

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.set()


class MemoryStore(Store):
    """A client of a `MemoryCluster`, by default of one of its own."""

    def __init__(self, cluster: MemoryCluster | None = None) -> None:
        self.cluster = cluster or MemoryCluster()
        self._closed = False
        self._wakes: set[asyncio.Event] = set()

    @property
    def description(self) -> str:
        """See `Store`."""
        return "the memory store of this process"

    async def read(self, key: str, *, timeout: float = WRITE_TIMEOUT) -> tuple[Entry | None, int]:
        """See `Store`."""
        await self._reach()
        return self.cluster.read(key), self.cluster.revision

    async def page(
        self,
        prefix: str,
        *,
        after: str | None = None,
        revision: int = 0,
        limit: int = PAGE_SIZE,
        timeout: float = LIST_TIMEOUT,
    ) -> Page:
        """See `Store`."""
        await self._reach()
        return self.cluster.page(prefix, after, revision, limit)

    async def transact(
        self,
        expected: Mapping[str, int],
        operations: Sequence[Put | Delete],
        *,
        timeout: float = WRITE_TIMEOUT,
    ) -> Outcome:
        """See `Store`."""
        await self._reach()
        return self.cluster.transact(expected, operations)

    async def watch(self, prefix: str, revision: int) -> AsyncGenerator[Batch, None]:
        """See `Store`."""
        wake = asyncio.Event()
        self.cluster.add_watcher(wake)
        self._wakes.add(wake)
        try:
            alive = True
            while not self._closed:
                wake.clear()
                if not self.cluster.stopped:
                    events = self.cluster.changes_since(prefix, revision)
                    now = self.cluster.revision
                    revision = max(revision, now + 1)
                    if events or alive:
                        yield Batch(events, now)
                alive = not await _set_within(wake, IDLE_SECONDS)
        finally:
            self.cluster.drop_watcher(wake)
            self._wakes.discard(wake)

    async def grant(self, ttl: float, *, timeout: float = WRITE_TIMEOUT) -> int:
        """See `Store`. Nothing can die without its process here, so a lease ends on a call alone."""
        await self._reach()
        return self.cluster.grant()

    async def keep_alive(self, lease: int, *, timeout: float = WRITE_TIMEOUT) -> None:
        """See `Store`."""
        await self._reach()
        if not self.cluster.has_lease(lease):
            raise LeaseGone(f"lease {lease:x} has ended")

    async def revoke(self, lease: int, *, timeout: float = WRITE_TIMEOUT) -> None:
        """See `Store`."""
        await self._reach()
        self.cluster.expire(lease)

    async def close(self) -> None:
        """See `Store`."""
        self._closed = True
        for wake in self._wakes:
            wake.set()

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self._closed:
            raise StoreUnavailable("this client of the memory store is closed: open another")
        self.cluster.check_reachable()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _check_size(operations: Sequence[Put | Delete]) -> None:
    if len(operations) > MAX_OPERATIONS:
        raise StoreRefused(
            f"{len(operations)} operations in one transaction, at most {MAX_OPERATIONS} are allowed: split it"
        )
    keys = [operation.key for operation in operations]
    if len(set(keys)) != len(keys):
        raise StoreRefused("a transaction names a key twice: give each key one operation")
    size = sum(
        len(operation.key) + (len(operation.value) if isinstance(operation, Put) else 0)
        for operation in operations
    )
    if size > MAX_REQUEST_BYTES:
        raise StoreRefused(
            f"a transaction of {size} bytes, at most {MAX_REQUEST_BYTES} are allowed: split it or shrink its"
            " values"
        )
