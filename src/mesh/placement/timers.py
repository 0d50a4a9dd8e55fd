"""Moments at which something is due, without a clock."""

from enum import Enum
from heapq import heappop, heappush
from itertools import count
from math import inf


class Due(Enum):
    """What a timer is for."""

    SPACE_DEADLINE = 0
    ROOM_RETRY = 1
    FAILURE_EXPIRY = 2
    DRAIN_CHECK = 3


class Timers:
    """Timers in order of time. They are not cancelled: who set one sees whether it still means anything.

    Attributes:
        next_ms: when the first one is due; infinite where none is set.
    """

    __slots__ = ("_announced_ms", "_heap", "_sequence", "next_ms")

    def __init__(self) -> None:
        self.next_ms: float = inf
        self._heap: list[tuple[int, int, Due, str, int]] = []
        self._sequence = count()
        self._announced_ms: int | None = None

    def set(self, time_ms: int, due: Due, model_id: str = "", load_id: int = 0) -> None:
        """Sets one."""
        heappush(self._heap, (time_ms, next(self._sequence), due, model_id, load_id))
        self.next_ms = self._heap[0][0]

    def pop_due(self, now_ms: int) -> tuple[Due, str, int] | None:
        """Returns: what is due, for which model and load, or None."""
        if self._heap and self._heap[0][0] <= now_ms:
            _, _, due, model_id, load_id = heappop(self._heap)
            self.next_ms = self._heap[0][0] if self._heap else inf
            return due, model_id, load_id
        return None

    def announce(self, now_ms: int) -> int | None:
        """Returns: the time at which to wake, where it has to be told anew, else None."""
        if self._announced_ms is not None and self._announced_ms <= now_ms:
            self._announced_ms = None
        if not self._heap:
            return None
        next_ms = self._heap[0][0]
        if self._announced_ms is not None and self._announced_ms <= next_ms:
            return None
        self._announced_ms = next_ms
        return next_ms
