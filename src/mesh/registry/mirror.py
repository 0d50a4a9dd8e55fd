"""A typed copy of one prefix of the store, kept in memory and up to date.

It lists the prefix, watches from the listing's revision, and lists anew on compaction and on a timer: a watch
alone is never trusted. While the store is away it keeps what it has.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeVar, overload

from mesh.registry.backoff import around, pause_before
from mesh.registry.codecs import Codec
from mesh.registry.errors import Compacted, InvalidRecord, RegistryError
from mesh.registry.replica import Replica
from mesh.registry.store import LIST_TIMEOUT, WRITE_TIMEOUT, Entry, Store
from mesh.registry.update import Keep, update_together

log = logging.getLogger(__name__)

R = TypeVar("R")
D = TypeVar("D")

RELIST_SECONDS = 600.0
"""Default time between two listings that repair what a watch may have missed."""

_REMEMBERED = -1
"""The revision of records of which only some earlier state is known; anything that the store says is news."""

Subscriber = Callable[[str, R | None, R | None], None]
"""Is called with a record's id, the record before and after the change; None stands for absent."""


class Mirror(Mapping[str, R], Generic[R]):
    """The records of one prefix by id, readable without waiting.

    Whoever awaits something while iterating takes a ``list`` first.

    Args:
        store: that holds the records; it may be shared.
        prefix: of their keys; an id is a key without it.
        codec: reads and writes the values.
        relist_every: seconds, more or less, between two listings that repair differences.
    """

    def __init__(
        self, store: Store, prefix: str, codec: Codec[R], *, relist_every: float = RELIST_SECONDS
    ) -> None:
        self.store = store
        self.prefix = prefix
        self.codec = codec
        self._relist_every = around(relist_every)
        self._replica: Replica[R] = Replica()
        self._subscribers: tuple[Subscriber[R], ...] = ()
        self._on_listed: tuple[Callable[[], None], ...] = ()
        self._listing = True
        self._ready = asyncio.Event()
        self._trouble = "not started"
        self._failures = 0
        self._heard = -math.inf
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to mirror, in a task of its own; needs a running event loop."""
        if self._task is None:
            self._trouble = "the first listing is under way"
            self._task = asyncio.create_task(self._run(), name=f"mirror {self.prefix}")

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until the first listing is complete.

        Raises:
            TimeoutError: it is not after `timeout` seconds; the text says what stands against it.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            raise TimeoutError(
                f"the registry under {self.prefix!r} is not there after {timeout} s: {self._trouble}"
            ) from None

    @property
    def ready(self) -> bool:
        """Whether the first listing is complete."""
        return self._ready.is_set()

    def restore(self, values: Mapping[str, bytes]) -> None:
        """Takes in what is remembered of the records, until the first listing says what they are.

        Without effect once that is complete.
        """
        if self.ready:
            return
        for record_id, value in values.items():
            try:
                record = self.codec.decode(Entry(self.prefix + record_id, value, 0, 0))
            except InvalidRecord as error:
                log.warning("a remembered value is no record and is left out: %s", error)
                continue
            if record_id not in self._replica.held:
                self._tell(record_id, self._replica.set(record_id, record, _REMEMBERED), record)

    @property
    def lag(self) -> float:
        """Seconds since the store last confirmed that the mirror is up to date; infinite before it is ready.

        A few seconds are usual, since the store is asked every few seconds.
        """
        return time.monotonic() - self._heard if self.ready else math.inf

    @property
    def invalid(self) -> Mapping[str, str]:
        """Ids of stored values that are no records, and why; such a record is absent here."""
        return {record_id: invalid.reason for record_id, invalid in self._replica.invalid.items()}

    def __getitem__(self, record_id: str) -> R:
        return self._replica.held[record_id].record

    @overload
    def get(self, record_id: str, /) -> R | None: ...
    @overload
    def get(self, record_id: str, /, default: R | D) -> R | D: ...
    def get(self, record_id: str, /, default: Any = None) -> Any:
        """Returns a record, or the default where there is none."""
        held = self._replica.held.get(record_id)
        return default if held is None else held.record

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._replica.held

    def __iter__(self) -> Iterator[str]:
        return iter(self._replica.held)

    def __len__(self) -> int:
        return len(self._replica.held)

    def revision(self, record_id: str) -> int:
        """Returns the mod_revision of the record held, 0 where there is none."""
        held = self._replica.held.get(record_id)
        return 0 if held is None else max(held.revision, 0)

    def subscribe(self, subscriber: Subscriber[R], *, replay: bool = False) -> Callable[[], None]:
        """Has a function called at each change, in order and before anything else sees the next one.

        Args:
            subscriber: must be quick; what it raises is logged and goes no further.
            replay: call it first for each record that is there, as if it had just appeared.

        Returns:
            A function that ends the subscription.
        """
        self._subscribers = (*self._subscribers, subscriber)
        if replay:
            for record_id, held in list(self._replica.held.items()):
                _notify(subscriber, record_id, None, held.record)

        def end() -> None:
            self._subscribers = tuple(other for other in self._subscribers if other is not subscriber)

        return end

    @property
    def listing(self) -> bool:
        """Whether a listing is under way, so that the records are of different revisions of the store."""
        return self._listing

    def on_listed(self, callback: Callable[[], None]) -> None:
        """Has a function called whenever a listing is complete; it must be quick and raise nothing."""
        self._on_listed = (*self._on_listed, callback)

    async def fetch(self, record_id: str, *, timeout: float = WRITE_TIMEOUT) -> R | None:
        """Reads a record from the store itself, and takes what it finds into the mirror.

        Raises:
            StoreUnavailable, StoreDenied: see `Store`.
            InvalidRecord: the stored value is no record.
        """
        entry, revision = await self.store.read(self.prefix + record_id, timeout=timeout)
        self.learn(record_id, entry, revision)
        return self.checked(record_id)

    def checked(self, record_id: str) -> R | None:
        """Returns a record as `get` does.

        Raises:
            InvalidRecord: there is a stored value, and it is no record.
        """
        invalid = self._replica.invalid.get(record_id)
        if invalid is not None:
            raise InvalidRecord(self.prefix + record_id, invalid.reason)
        return self.get(record_id)

    def learn(self, record_id: str, entry: Entry | None, revision: int) -> None:
        """Takes in what the store said of a record at one of its revisions; older news are passed over."""
        if not self._replica.is_news(record_id, entry.mod_revision if entry else 0, revision):
            return
        if entry is None:
            self._tell(record_id, self._replica.remove(record_id, revision), None)
            return
        try:
            record = self.codec.decode(entry)
        except InvalidRecord as error:
            if record_id not in self._replica.invalid:
                log.error("a stored value is no record and is left out: %s", error)
            self._tell(record_id, self._replica.set_invalid(record_id, str(error), entry.mod_revision), None)
            return
        self._tell(record_id, self._replica.set(record_id, record, entry.mod_revision), record)

    def learn_written(self, record_id: str, record: R | None, revision: int) -> None:
        """Takes in what this process wrote itself; the record is not decoded again."""
        if not self._replica.is_news(record_id, 0 if record is None else revision, revision):
            return
        if record is None:
            self._tell(record_id, self._replica.remove(record_id, revision), None)
        else:
            self._tell(record_id, self._replica.set(record_id, record, revision), record)

    async def update(
        self,
        record_id: str,
        change: Callable[[R | None], R | Keep | None],
        *,
        timeout: float = WRITE_TIMEOUT,
    ) -> R | None:
        """Changes one record by compare-and-swap; the mirror shows the result at once.

        Where `change` leaves a record that the mirror holds as it is, the store is not asked; whoever must be
        sure calls `fetch` first. That a record is absent is confirmed by the store.

        Args:
            record_id: which.
            change: gets the current record or None, returns the wanted one, None to delete, or `KEEP`.
                It is called again with the fresh record after a conflict, so it must be free of effects.
                What it raises ends the update, once the store has confirmed that the record was the current one.
            timeout: seconds for all tries together.

        Returns:
            The record as it is now, None where there is none.

        Raises:
            StoreUnavailable, OutcomeUnknown, StoreDenied, StoreRefused: see `Store`.
            InvalidRecord: the stored value is no record.
        """
        records = await update_together(
            [(self, record_id)], lambda current: [change(current[0])], timeout=timeout
        )
        return records[0]  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Stops mirroring; the records stay readable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _tell(self, record_id: str, before: R | None, after: R | None) -> None:
        if before == after:
            return
        for subscriber in self._subscribers:
            _notify(subscriber, record_id, before, after)

    async def _run(self) -> None:
        while True:
            try:
                await self._list()
                await self._follow()
            except Compacted as error:
                log.info("the mirror of %s lists again: %s", self.prefix, error)
                continue
            except RegistryError as error:
                if not self._failures:
                    log.warning("the mirror of %s keeps its last state: %s", self.prefix, error)
                self._trouble = str(error)
            except Exception as error:
                log.exception("the mirror of %s failed and starts over", self.prefix)
                self._trouble = repr(error)
            self._failures += 1
            await asyncio.sleep(pause_before(self._failures))

    async def _list(self) -> None:
        """Merges a listing of the whole prefix into the replica."""
        self._listing = True
        replica = self._replica
        page = await self.store.page(self.prefix, timeout=LIST_TIMEOUT)
        revision = page.revision
        if revision < replica.position:
            log.warning(
                "the store went back from revision %d to %d, as after a restore from a backup; the mirror of"
                " %s follows it",
                replica.position,
                revision,
                self.prefix,
            )
            replica.distrust()
        start = len(self.prefix)
        listed: list[str] = []
        while True:
            for entry in page.entries:
                record_id = entry.key[start:]
                listed.append(record_id)
                self.learn(record_id, entry, revision)
            if not page.more:
                break
            page = await self.store.page(
                self.prefix, after=page.entries[-1].key, revision=revision, timeout=LIST_TIMEOUT
            )
        for record_id in replica.missing(listed, revision):
            self._tell(record_id, replica.remove(record_id, revision), None)
        replica.advance(revision)
        self._heard = time.monotonic()
        self._listing = False
        self._ready.set()
        for callback in self._on_listed:
            callback()

    async def _follow(self) -> None:
        """Takes in changes until the next listing is due, or the store cannot tell them all."""
        replica = self._replica
        start = len(self.prefix)
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(self._relist_every),
                aclosing(self.store.watch(self.prefix, replica.position + 1)) as batches,
            ):
                async for batch in batches:
                    for event in batch.events:
                        self.learn(event.key[start:], event.entry, event.revision)
                    replica.advance(batch.revision)
                    self._heard = time.monotonic()
                    self._failures = 0


def _notify(subscriber: Subscriber[R], record_id: str, before: R | None, after: R | None) -> None:
    try:
        subscriber(record_id, before, after)
    except Exception:
        log.exception("a subscriber failed at record %r", record_id)
