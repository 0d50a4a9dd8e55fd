"""The entries of a cache, and the order in which they are loaded."""

from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from itertools import count

from mesh.placement.instructions import Failure
from mesh.placement.sizes import SizeSource


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
        size_source: where it comes from; a declared one stands whatever the runtime tells.
        safe_until_ms: not evicted before, because it was just loaded or has requests in flight.
        priority: entries of a lower one are evicted first.
        pinned: never evicted.
        uses: how often it was used, as far as the policy of the cache counts that.
        counted_ms: the last use that was counted.
        load_ms: how long its load took.
        worth: what it is worth to keep by each of the measures of the cache's policy; grows with every use.
        chosen_by: which of these measures had it evicted; None where all did.
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
    size_source: SizeSource = SizeSource.DEFAULT
    registered: bool = False
    in_flight: int = 0
    safe_until_ms: int = 0
    priority: int = 0
    pinned: bool = False
    uses: int = 0
    counted_ms: int = 0
    load_ms: int = 0
    worth: tuple[float, float] = (0.0, 0.0)
    chosen_by: int | None = None
    closing_for: str | None = None
    queued_ms: int = 0
    started_ms: int = 0
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


class LoadQueue:
    """Loads that wait for a loader.

    Those that a request waits for go first, in the order they came, so that none starves; then preemptive
    ones, the most recently used model first.
    """

    __slots__ = ("_heap", "_tickets")

    def __init__(self) -> None:
        self._heap: list[tuple[bool, int, int, Entry]] = []
        self._tickets = count(1)

    def __len__(self) -> int:
        """Places in it, also of entries that have left."""
        return len(self._heap)

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
