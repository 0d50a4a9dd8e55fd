"""What a chooser has placed and cannot yet see in the instances' records."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pending:
    """Placements on one instance that its record does not show yet."""

    units: int = 0
    loads: int = 0


_NOTHING = Pending()


@dataclass(slots=True, eq=False)
class _Reservation:
    """One placement.

    Attributes:
        visible_ms: a record that arrives later than this shows it.
        over: it does not count any more.
    """

    model_id: str
    instance_id: str
    units: int
    expires_ms: int
    visible_ms: int
    over: bool = False


class Reservations:
    """Placements that count at once in the chooser's view, so that a burst spreads.

    One is held until `release` (the load ended or was refused), until the instance renewed its record after it
    had the load, or for ``ttl_ms``.

    Args:
        ttl_ms: after which a reservation is dropped in any case.
        visible_after_ms: how long after the placement a new record is taken to show it, where the instance has
            not told earlier that it accepted the load.

    Raises:
        ValueError: a time is below 1.
    """

    def __init__(self, ttl_ms: int = 30_000, visible_after_ms: int = 500) -> None:
        if ttl_ms < 1 or visible_after_ms < 1:
            raise ValueError(
                f"ttl_ms is {ttl_ms} and visible_after_ms {visible_after_ms}, both must be at least 1"
            )
        self._ttl_ms = ttl_ms
        self._visible_after_ms = visible_after_ms
        self._at: dict[str, dict[str, _Reservation]] = {}
        self._totals: dict[str, Pending] = {}
        self._by_age: deque[_Reservation] = deque()
        self._count = 0

    def add(self, model_id: str, instance_id: str, units: int, now_ms: int) -> None:
        """Counts a load of ``units`` on the instance from now on; replaces one for the same model there."""
        self.release(model_id, instance_id)
        reservation = _Reservation(
            model_id, instance_id, units, now_ms + self._ttl_ms, now_ms + self._visible_after_ms
        )
        self._at.setdefault(instance_id, {})[model_id] = reservation
        self._by_age.append(reservation)
        self._count += 1
        total = self._totals.get(instance_id, _NOTHING)
        self._totals[instance_id] = Pending(total.units + units, total.loads + 1)

    def accepted(self, model_id: str, instance_id: str, now_ms: int) -> None:
        """The instance has taken the load on: the next record it writes includes it."""
        reservation = self._at.get(instance_id, {}).get(model_id)
        if reservation is not None:
            reservation.visible_ms = min(reservation.visible_ms, now_ms)

    def record_renewed(self, instance_id: str, now_ms: int) -> None:
        """A new record of the instance arrived: what it had accepted before is in there."""
        visible = [held for held in self._at.get(instance_id, {}).values() if held.visible_ms < now_ms]
        for reservation in visible:
            self._end(reservation)

    def release(self, model_id: str, instance_id: str) -> None:
        """The load ended or was refused; unknown ones are fine."""
        reservation = self._at.get(instance_id, {}).get(model_id)
        if reservation is not None:
            self._end(reservation)

    def instance_gone(self, instance_id: str) -> None:
        """Nothing is pending on an instance that is no more."""
        for reservation in list(self._at.get(instance_id, {}).values()):
            self._end(reservation)

    def expire(self, now_ms: int) -> None:
        """Drops what is older than the time to live."""
        while self._by_age and (self._by_age[0].over or self._by_age[0].expires_ms <= now_ms):
            oldest = self._by_age.popleft()
            if not oldest.over:
                self._end(oldest)

    def pending(self, instance_id: str) -> Pending:
        """Returns: what is counted on the instance beyond its record."""
        return self._totals.get(instance_id, _NOTHING)

    @property
    def totals(self) -> Mapping[str, Pending]:
        """What is counted beyond the records, by instance; only those where something is."""
        return self._totals

    def __len__(self) -> int:
        return self._count

    def _end(self, reservation: _Reservation) -> None:
        instance_id = reservation.instance_id
        reservation.over = True
        self._count -= 1
        held = self._at[instance_id]
        del held[reservation.model_id]
        if held:
            total = self._totals[instance_id]
            self._totals[instance_id] = Pending(total.units - reservation.units, total.loads - 1)
        else:
            del self._at[instance_id], self._totals[instance_id]
