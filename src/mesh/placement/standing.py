"""What one instance is worth as a place for models at this moment."""

from mesh.placement.decisions import Merits
from mesh.placement.limits import full_threshold_units
from mesh.placement.reservations import Pending
from mesh.placement.view import NEVER_USED_MS, InstanceView

#: Loads per loader that may be queued before another instance is preferred; a rule of our own, without which a
#: burst piles up on the emptiest instance.
LOADS_PER_ROUND = 4

Key = tuple[int | str, ...]

_NOTHING = Pending()


class Standing:
    """One instance's merits, its record and what is placed there beyond it taken together.

    Attributes:
        free: units that are free, never negative.
        threshold: with less free than this it counts as full.
        rounds: how often its loaders have to start over until its queue is empty.
        room_key: its place among those that have room; the least is the best.
        age_key: its place among full ones.
    """

    __slots__ = (
        "age_key",
        "free",
        "instance_id",
        "loads",
        "models",
        "room_key",
        "rounds",
        "threshold",
        "view",
    )

    def __init__(self, view: InstanceView, default_model_units: int, pending: Pending = _NOTHING) -> None:
        self.view = view
        self.instance_id = view.instance_id
        threads = max(1, view.loader_threads)
        self.free = free = max(0, view.capacity_units - view.used_units - pending.units)
        self.models = models = view.models + pending.loads
        self.loads = loads = view.loads_in_progress + pending.loads
        self.threshold = full_threshold_units(view.capacity_units, default_model_units, threads)
        self.rounds = rounds = loads // (threads * LOADS_PER_ROUND)
        oldest = view.oldest_used_ms
        rest = (
            -max(0, threads - loads),
            loads,
            -view.capacity_units,
            view.requests_per_minute,
            view.instance_id,
        )
        self.room_key: Key = (rounds, -view.version, models, -free, oldest, *rest)
        self.age_key: Key = (rounds, -view.version, oldest, models, -free, *rest)

    def has_room(self, units: int) -> bool:
        """Whether a model of so many units gets in without an eviction, and the instance is not full then."""
        return self.free >= self.threshold and self.free >= units

    @property
    def backlog(self) -> float:
        """Loads per loader."""
        return self.loads / max(1, self.view.loader_threads)

    def merits(self, units: int, now_ms: int, aside: str = "") -> Merits:
        """Puts down what it is worth, to be told later.

        Args:
            units: of the model that is to be placed.
            now_ms: epoch milliseconds.
            aside: why others are wished for.
        """
        view = self.view
        full = not self.has_room(units)
        oldest_ms = view.oldest_used_ms
        return Merits(
            full,
            self.free,
            view.capacity_units,
            self.models,
            self.loads,
            view.loader_threads,
            max(0, now_ms - oldest_ms) if full and oldest_ms != NEVER_USED_MS else None,
            view.requests_per_minute,
            aside,
        )
