"""How much was asked of the copies here in the last minute."""

from collections import Counter, deque
from dataclasses import dataclass, field

from mesh.placement.copies import BUSY_COPY

#: Rates are kept in slots of so many seconds.
SLOT_S = 5
_SLOTS = 60 // SLOT_S


@dataclass(slots=True)
class _Slot:
    number: int
    requests: Counter[str] = field(default_factory=Counter)
    busy_ms: float = 0.0


class Rates:
    """Requests per minute, of each model and of the instance, over the last minute.

    Bounded by what was used: a model that was not asked for a minute takes no memory.

    Args:
        limited: whether copies take only so many requests at once.
    """

    def __init__(self, *, limited: bool = False) -> None:
        self._limited = limited
        self._slots: deque[_Slot] = deque()
        self._sum: Counter[str] = Counter()
        self._busy_ms = 0.0
        self.total = 0

    @property
    def load(self) -> int:
        """What the instance tells of how busy it is.

        Requests per minute; where copies take only so many at once, `BUSY_COPY` for each that is busy all the time,
        as KServe ModelMesh tells it in latency mode.
        """
        return int(self._busy_ms * BUSY_COPY / 60_000) if self._limited else self.total

    def add(self, model_id: str, requests: int, now_s: float, busy_ms: float = 0.0) -> None:
        """Counts requests that were made since the last call.

        Args:
            busy_ms: how long all places of the copy together were taken, in parts of all.
        """
        slot = int(now_s // SLOT_S)
        self.expire(now_s)
        if not self._slots or self._slots[-1].number != slot:
            self._slots.append(_Slot(slot))
        last = self._slots[-1]
        if requests:
            last.requests[model_id] += requests
            self._sum[model_id] += requests
            self.total += requests
        last.busy_ms += busy_ms
        self._busy_ms += busy_ms

    def expire(self, now_s: float) -> None:
        """Forgets what is older than a minute."""
        oldest = int(now_s // SLOT_S) - _SLOTS
        while self._slots and self._slots[0].number <= oldest:
            slot = self._slots.popleft()
            self._busy_ms -= slot.busy_ms
            for model_id, requests in slot.requests.items():
                self.total -= requests
                self._sum[model_id] -= requests
                if not self._sum[model_id]:
                    del self._sum[model_id]

    def lately(self, model_id: str, now_s: float) -> int:
        """Requests per minute for a model in the last 5 to 10 seconds."""
        slot = int(now_s // SLOT_S)
        requests = sum(last.requests[model_id] for last in self._slots if last.number >= slot - 1)
        return int(requests * 60 / (now_s - (slot - 1) * SLOT_S))

    def of(self, model_id: str) -> int:
        """Requests for a model in the last minute."""
        return self._sum[model_id]
