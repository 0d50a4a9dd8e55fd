"""What a chooser has placed and cannot yet see in the instances' records."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pending:
    """Placements on one instance that its record does not show yet."""

    units: int = 0
    loads: int = 0


_NOTHING = Pending()


@dataclass(slots=True)
class _Reservation:
    units: int
    expires_ms: int
    #: When the instance's own record must have shown it, once it is renewed after that.
    accepted_ms: int | None = None


class Reservations:
    """Placements that count at once in the chooser's view, so that a burst spreads.

    One is held until `release` (the load ended or was refused), until the instance renewed its record after it
    accepted the load, or for ``ttl_ms``.

    Args:
        ttl_ms: after which a reservation is dropped in any case.
    """

    def __init__(self, ttl_ms: int = 30_000) -> None: ...

    def add(self, model_id: str, instance_id: str, units: int, now_ms: int) -> None:
        """Counts a load of ``units`` on the instance from now on; replaces one for the same model there."""
        raise NotImplementedError

    def accepted(self, model_id: str, instance_id: str, now_ms: int) -> None:
        """The instance has taken the load on: the next record it writes includes it."""
        raise NotImplementedError

    def record_renewed(self, instance_id: str, now_ms: int) -> None:
        """A new record of the instance arrived: what it had accepted before is in there."""
        raise NotImplementedError

    def release(self, model_id: str, instance_id: str) -> None:
        """The load ended or was refused; unknown ones are fine."""
        raise NotImplementedError

    def instance_gone(self, instance_id: str) -> None:
        """Nothing is pending on an instance that is no more."""
        raise NotImplementedError

    def expire(self, now_ms: int) -> None:
        """Drops what is older than the time to live."""
        raise NotImplementedError

    def pending(self, instance_id: str) -> Pending:
        """Returns: what is counted on the instance beyond its record."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError
