"""How much was asked of the copies here in the last minute."""

from collections import Counter, deque

#: Rates are kept in slots of so many seconds.
SLOT_S = 5
_SLOTS = 60 // SLOT_S


class Rates:
    """Requests per minute, of each model and of the instance, over the last minute.

    Bounded by what was used: a model that was not asked for a minute takes no memory.
    """

    def __init__(self) -> None:
        self._slots: deque[tuple[int, Counter[str]]] = deque()
        self._sum: Counter[str] = Counter()
        self.total = 0

    def add(self, model_id: str, requests: int, now_s: float) -> None:
        """Counts requests that were made since the last call."""
        slot = int(now_s // SLOT_S)
        self.expire(now_s)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append((slot, Counter()))
        self._slots[-1][1][model_id] += requests
        self._sum[model_id] += requests
        self.total += requests

    def expire(self, now_s: float) -> None:
        """Forgets what is older than a minute."""
        oldest = int(now_s // SLOT_S) - _SLOTS
        while self._slots and self._slots[0][0] <= oldest:
            for model_id, requests in self._slots.popleft()[1].items():
                self.total -= requests
                self._sum[model_id] -= requests
                if not self._sum[model_id]:
                    del self._sum[model_id]

    def of(self, model_id: str) -> int:
        """Requests for a model in the last minute."""
        return self._sum[model_id]
