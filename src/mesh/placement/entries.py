"""The entries of a cache, and the two orders they stand in: by last use, and by urgency of their load."""

from dataclasses import dataclass
from enum import StrEnum
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

from mesh.placement.instructions import Failure


class CopyState(StrEnum):
    """Where a copy is in its life."""

    #: Being registered and its size predicted, or waiting for others to make room.
    NEW = "new"
    QUEUED = "queued"
    #: Has a loader and waits for memory that unloading models still hold.
    WAITING = "waiting"
    LOADING = "loading"
    #: Loaded and serving; its size is being measured.
    SIZING = "sizing"
    LOADED = "loaded"
    FAILED = "failed"
    #: Out of the cache; the runtime still holds it.
    UNLOADING = "unloading"


@dataclass(frozen=True, slots=True)
class FailureNote:
    """Why a load failed, to be told to whoever asks before it is forgotten."""

    reason: Failure
    code: int
    message: str
    retry_elsewhere: bool


@dataclass(slots=True, eq=False)
class Entry:
    """One model in a cache. Sizes in units of 8 KiB, times in epoch milliseconds.

    Attributes:
        units: counted as used.
        expected_units: size it is going to have; pending until it is admitted and ``units`` is set.
        size_known: ``expected_units`` was told or predicted, not guessed.
        safe_until_ms: not evicted before, because it was just loaded or has requests in flight.
        closing_for: the model for whose sake the data plane was asked to close it; None where it was not.
        space_deadline_ms: by when it must have got its memory; 0 while it does not wait for any.
        queue_ticket: which of its places in the load queue counts.
        gone: dropped; what still refers to it is to let it go.
    """

    model_id: str
    load_id: int
    last_used_ms: int
    since_ms: int
    urgent: bool
    why: str
    state: CopyState = CopyState.NEW
    units: int = 0
    expected_units: int = 0
    size_known: bool = False
    registered: bool = False
    in_flight: int = 0
    safe_until_ms: int = 0
    closing_for: str | None = None
    queued_ms: int = 0
    loaded_ms: int = 0
    space_deadline_ms: int = 0
    queue_ticket: int = 0
    failure: FailureNote | None = None
    gone: bool = False

    def touch(self, used_ms: int) -> None:
        """Takes note of a use."""
        self.last_used_ms = max(self.last_used_ms, used_ms)

    def note_in_flight(self, requests: int, now_ms: int, hold_ms: int) -> None:
        """Takes note of requests in flight; while there are any it is in use and safe for a moment."""
        self.in_flight = requests
        if requests > 0:
            self.touch(now_ms)
            self.safe_until_ms = max(self.safe_until_ms, now_ms + hold_ms)

    def served(self, used_ms: int, now_ms: int) -> bool:
        """Takes note that nothing is in flight; a new copy that was used has been found by those who waited for it.

        Returns: whether it may be evicted from now on and might not have been before.
        """
        if self.safe_until_ms <= now_ms or not 0 < self.loaded_ms <= used_ms:
            return False
        self.safe_until_ms = now_ms
        return True


class LruOrder:
    """Entries by last use.

    Uses only ever move forward, so a use need not touch the heap: an entry that comes to its top with a use
    newer than the one it was filed under is filed anew. That makes the frequent operation, a use, free.
    """

    __slots__ = ("_heap", "_live", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Entry]] = []
        self._sequence = count()
        self._live = 0

    def add(self, entry: Entry) -> None:
        """Files an entry."""
        self._live += 1
        heappush(self._heap, (entry.last_used_ms, next(self._sequence), entry))

    def remove(self, entry: Entry) -> None:
        """Drops an entry; the heap lets go of it when it comes up, or when half of the heap is such."""
        entry.gone = True
        self._live -= 1
        if len(self._heap) > 2 * self._live + 64:
            self._heap = [item for item in self._heap if not item[2].gone]
            heapify(self._heap)

    def oldest(self) -> Entry | None:
        """Returns: the entry whose last use is longest ago."""
        heap = self._heap
        while heap:
            filed_ms, number, entry = heap[0]
            if entry.gone:
                heappop(heap)
            elif entry.last_used_ms != filed_ms:
                heapreplace(heap, (entry.last_used_ms, number, entry))
            else:
                return entry
        return None

    def pop_oldest(self) -> Entry | None:
        """Takes the oldest entry out for a while; `put_back` must follow."""
        entry = self.oldest()
        if entry is not None:
            heappop(self._heap)
        return entry

    def put_back(self, entries: list[Entry]) -> None:
        """Returns what `pop_oldest` took out."""
        for entry in entries:
            heappush(self._heap, (entry.last_used_ms, next(self._sequence), entry))


class LoadQueue:
    """Loads that wait for a loader.

    Those that a request waits for go first, in the order they came, so that none starves; then preemptive
    ones, the most recently used model first.
    """

    __slots__ = ("_heap", "_tickets")

    def __init__(self) -> None:
        self._heap: list[tuple[bool, int, int, Entry]] = []
        self._tickets = count(1)

    def push(self, entry: Entry) -> None:
        """Queues an entry, or moves one whose urgency has changed."""
        entry.queue_ticket = ticket = next(self._tickets)
        order = entry.since_ms if entry.urgent else -entry.last_used_ms
        heappush(self._heap, (not entry.urgent, order, ticket, entry))

    def pop(self) -> Entry | None:
        """Returns: the next load, out of the queue, or None."""
        while self._heap:
            _, _, ticket, entry = heappop(self._heap)
            if not entry.gone and entry.state is CopyState.QUEUED and entry.queue_ticket == ticket:
                return entry
        return None
