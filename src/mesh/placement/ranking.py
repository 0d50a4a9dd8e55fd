"""All live instances in the order in which models go to them, kept as their records change.

Instances with the same labels in the same zone stand in one group, since conditions of a model on labels and zones
decide about all of them at once. Each group has two orders: by room, for the instances that are not full, and by
age, for all.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.placement.constraints import Labels, TypeConstraints
from mesh.placement.reservations import Pending
from mesh.placement.standing import Key, Standing
from mesh.placement.view import NEVER_USED_MS, InstanceView

_NO_CONSTRAINTS = TypeConstraints()


@dataclass(frozen=True, slots=True)
class ClusterStats:
    """How full some instances are together. Memory in units of 8 KiB.

    Attributes:
        instances: that are not shutting down; the other figures are theirs.
        capacity_units: without the unload buffers.
        oldest_used_ms: last use of the copy that was used longest ago, epoch milliseconds; `NEVER_USED_MS`
            without copies.
        models: copies, counted on each instance.
        full: instances that count as full.
        loads_in_progress: queued, waiting and running.
    """

    instances: int = 0
    capacity_units: int = 0
    used_units: int = 0
    free_units: int = 0
    oldest_used_ms: int = NEVER_USED_MS
    models: int = 0
    full: int = 0
    loads_in_progress: int = 0

    @property
    def free_share(self) -> float:
        """Of the capacity, between 0 and 1; 0 where there is no capacity."""
        return self.free_units / self.capacity_units if self.capacity_units else 0.0

    def with_more(self, other: "ClusterStats") -> "ClusterStats":
        """Both together."""
        return ClusterStats(
            self.instances + other.instances,
            self.capacity_units + other.capacity_units,
            self.used_units + other.used_units,
            self.free_units + other.free_units,
            min(self.oldest_used_ms, other.oldest_used_ms),
            self.models + other.models,
            self.full + other.full,
            self.loads_in_progress + other.loads_in_progress,
        )


_NOTHING = ClusterStats()


@dataclass(frozen=True, slots=True)
class Partition:
    """The instances that are closed to the same types, and so compete for the same models.

    Attributes:
        prohibited: types that cannot live there; ``_default`` stands for all that have no rule.
    """

    prohibited: frozenset[str]
    stats: ClusterStats
    instances: tuple[InstanceView, ...]


class Ranks:
    """Standings in order, the best first.

    Attributes:
        keys: their places, ascending.
        standings: those of the keys.
    """

    __slots__ = ("keys", "standings")

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.standings: list[Standing] = []

    def add(self, key: Key, standing: Standing) -> None:
        """Takes one in at its place."""
        at = bisect_left(self.keys, key)
        self.keys.insert(at, key)
        self.standings.insert(at, standing)

    def remove(self, key: Key) -> None:
        """Takes out the one at a place."""
        at = bisect_left(self.keys, key)
        del self.keys[at], self.standings[at]


class _Sums:
    """Figures of some instances, kept as they come and go."""

    __slots__ = ("_capacity", "_free", "_full", "_loads", "_models", "_oldest_ms", "_used")

    def __init__(self) -> None:
        self._capacity = self._used = self._free = self._models = self._loads = self._full = 0
        #: Of each instance, ascending.
        self._oldest_ms: list[int] = []

    def add(self, standing: Standing) -> None:
        """One comes."""
        insort(self._oldest_ms, standing.view.oldest_used_ms)
        self._count(standing, 1)

    def remove(self, standing: Standing) -> None:
        """One goes."""
        del self._oldest_ms[bisect_left(self._oldest_ms, standing.view.oldest_used_ms)]
        self._count(standing, -1)

    def _count(self, standing: Standing, sign: int) -> None:
        view = standing.view
        self._capacity += sign * view.capacity_units
        self._used += sign * view.used_units
        self._free += sign * view.free_units
        self._models += sign * view.models
        self._loads += sign * view.loads_in_progress
        self._full += 0 if standing.has_room(0) else sign

    def stats(self) -> ClusterStats:
        """Of those that are there."""
        return ClusterStats(
            instances=len(self._oldest_ms),
            capacity_units=self._capacity,
            used_units=self._used,
            free_units=self._free,
            oldest_used_ms=self._oldest_ms[0] if self._oldest_ms else NEVER_USED_MS,
            models=self._models,
            full=self._full,
            loads_in_progress=self._loads,
        )


class Group:
    """Instances with the same labels in the same zone.

    Attributes:
        members: all of them.
        by_room: those that are not full and not shutting down.
        by_age: those that are not shutting down, in the order in which full ones are taken.
    """

    def __init__(self, labels: Labels, zone: str) -> None:
        self.labels = labels
        self.zone = zone
        self.members: dict[str, Standing] = {}
        self.by_room = Ranks()
        self.by_age = Ranks()
        self._staying = _Sums()

    def add(self, standing: Standing) -> None:
        """Takes in an instance that is not there."""
        self.members[standing.instance_id] = standing
        if not standing.view.shutting_down:
            self._staying.add(standing)
            self.by_age.add(standing.age_key, standing)
            if standing.has_room(0):
                self.by_room.add(standing.room_key, standing)

    def remove(self, standing: Standing) -> None:
        """Takes out an instance that is there."""
        del self.members[standing.instance_id]
        if not standing.view.shutting_down:
            self._staying.remove(standing)
            self.by_age.remove(standing.age_key)
            if standing.has_room(0):
                self.by_room.remove(standing.room_key)

    def stats(self) -> ClusterStats:
        """Of those that are not shutting down."""
        return self._staying.stats()


@dataclass(frozen=True, slots=True)
class Eligible:
    """Where a type of model can live.

    Attributes:
        groups: that have what it requires.
        preferred: those of them that go first; empty where none goes before another.
    """

    groups: tuple[Group, ...]
    preferred: tuple[Group, ...]


class RankedInstances:
    """The instances that models can go to.

    It changes as records do, by `put` and `remove`, and costs little for each choice, also with a thousand
    instances. What a chooser has placed and cannot see in the records yet is no part of it, so that several
    choosers can share one.

    Args:
        default_model_units: assumed size of a model of which nothing is known.
        constraints: which types may live where.
        instances: to begin with.
    """

    def __init__(
        self,
        default_model_units: int,
        constraints: TypeConstraints = _NO_CONSTRAINTS,
        instances: Iterable[InstanceView] = (),
    ) -> None:
        self._default_model_units = default_model_units
        self._constraints = constraints
        self._views: dict[str, InstanceView] = {}
        #: The last standing worked out for what is pending on an instance, which one chooser asks for again and again.
        self._laden: dict[str, tuple[Pending, Standing]] = {}
        self._groups: dict[tuple[Labels, str], Group] = {}
        self._eligible: dict[str, Eligible] = {}
        for view in instances:
            self.put(view)

    @property
    def default_model_units(self) -> int:
        """Assumed size of a model of which nothing is known; may be replaced at any time."""
        return self._default_model_units

    @default_model_units.setter
    def default_model_units(self, units: int) -> None:
        if units == self._default_model_units:
            return
        self._default_model_units = units
        for view in list(self._views.values()):
            self._leave(view)
            self._enter(view)

    @property
    def constraints(self) -> TypeConstraints:
        """Which types may live where; may be replaced at any time."""
        return self._constraints

    @constraints.setter
    def constraints(self, constraints: TypeConstraints) -> None:
        self._constraints = constraints
        self._eligible.clear()

    @property
    def views(self) -> Mapping[str, InstanceView]:
        """What each instance last told of itself."""
        return self._views

    def put(self, view: InstanceView) -> None:
        """Takes in what an instance tells of itself, instead of what it told before."""
        before = self._views.get(view.instance_id)
        if before == view:
            return
        if before is not None:
            self._leave(before)
        self._views[view.instance_id] = view
        self._enter(view)

    def remove(self, instance_id: str) -> None:
        """Forgets an instance; unknown ones are fine."""
        before = self._views.pop(instance_id, None)
        if before is not None:
            self._leave(before)

    def standing(self, instance_id: str) -> Standing | None:
        """What an instance is worth by its record; None where it is not known."""
        view = self._views.get(instance_id)
        return None if view is None else self._groups[view.labels, view.zone].members[instance_id]

    def laden(self, instance_id: str, pending: Pending) -> Standing | None:
        """What an instance is worth by its record and by what a chooser has placed there beyond it."""
        known = self._laden.get(instance_id)
        if known is not None and known[0] is pending:
            return known[1]
        view = self._views.get(instance_id)
        if view is None:
            return None
        standing = Standing(view, self._default_model_units, pending)
        self._laden[instance_id] = (pending, standing)
        return standing

    def eligible(self, model_type: str) -> Eligible:
        """Where a type can live, and where it goes first."""
        name = self._constraints.rule_name(model_type)
        eligible = self._eligible.get(name)
        if eligible is None:
            present = {labels for labels, _ in self._groups}
            rule = self._constraints.rule(model_type)
            first = self._constraints.preferred_among(model_type, present)
            groups = tuple(group for group in self._groups.values() if rule.allows(group.labels))
            eligible = self._eligible[name] = Eligible(
                groups, tuple(group for group in groups if group.labels in first)
            )
        return eligible

    def stats(self, model_type: str) -> ClusterStats:
        """How full the instances are on which a type can live."""
        total = _NOTHING
        for group in self.eligible(model_type).groups:
            total = total.with_more(group.stats())
        return total

    def partitions(self) -> list[Partition]:
        """All instances that are not shutting down, by the types that they are closed to."""
        found: dict[frozenset[str], list[Group]] = {}
        for group in self._groups.values():
            found.setdefault(self._constraints.prohibited(group.labels), []).append(group)
        partitions = []
        for prohibited, groups in found.items():
            total = _NOTHING
            for group in groups:
                total = total.with_more(group.stats())
            views = tuple(one.view for group in groups for one in group.members.values())
            staying = tuple(view for view in views if not view.shutting_down)
            partitions.append(Partition(prohibited, total, staying))
        return partitions

    def __len__(self) -> int:
        return len(self._views)

    def _enter(self, view: InstanceView) -> None:
        key = (view.labels, view.zone)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(*key)
            self._eligible.clear()
        group.add(Standing(view, self._default_model_units))

    def _leave(self, view: InstanceView) -> None:
        self._laden.pop(view.instance_id, None)
        key = (view.labels, view.zone)
        group = self._groups[key]
        group.remove(group.members[view.instance_id])
        if not group.members:
            del self._groups[key]
            self._eligible.clear()
