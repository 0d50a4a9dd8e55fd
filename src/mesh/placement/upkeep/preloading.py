"""Models without a copy that are worth loading before anybody asks, into memory that nobody uses."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappush, heapreplace

from mesh.placement.ranking import Partition
from mesh.placement.view import NEVER_USED_MS


@dataclass(frozen=True, slots=True)
class PreloadingFigures:
    """How much is loaded ahead of demand; the figures of KServe ModelMesh.

    Attributes:
        free_share: of each instance's capacity, left alone for what is asked for.
        fill_share: of what is free beyond that, filled in one run.
        most_share: of the capacity, loaded in one run even where that takes evictions.
        queued_per_loader: an instance with more loads under way is left alone.
        failures: a model that failed to load on so many instances is left alone.
        newer_share, newer_least_ms: beyond free memory, a model must have been used later than the oldest copy by this
            share of that one's age, and at least so much.
    """

    free_share: float = 0.125
    fill_share: float = 0.5
    most_share: float = 0.05
    queued_per_loader: int = 50
    failures: int = 2
    newer_share: float = 1 / 3
    newer_least_ms: int = 1_200_000


@dataclass(frozen=True, slots=True)
class Preload:
    """A model to be loaded.

    Attributes:
        last_used_ms: its own last use, which it keeps, so that a use counts and a guess does not.
        evicts: memory is used up, so that something older goes for it.
    """

    model_id: str
    last_used_ms: int
    evicts: bool


class _Share:
    """What one partition can take in, and the most recently used models offered for it."""

    def __init__(
        self, partition: Partition, now_ms: int, default_units: int, figures: PreloadingFigures
    ) -> None:
        self.prohibited = partition.prohibited
        stats = partition.stats
        free = sum(
            max(0.0, view.free_units - figures.free_share * view.capacity_units)
            for view in partition.instances
            if view.loads_in_progress <= figures.queued_per_loader * max(1, view.loader_threads)
        )
        self.free_units = figures.fill_share * free
        self.most_units = max(self.free_units, figures.most_share * stats.capacity_units)
        self.usual_units = max(1, stats.used_units // stats.models if stats.models else default_units)
        self._most_models = int(self.most_units / self.usual_units)
        if stats.oldest_used_ms == NEVER_USED_MS:
            self.newer_than_ms = NEVER_USED_MS
        else:
            age_ms = max(0, now_ms - stats.oldest_used_ms)
            self.newer_than_ms = stats.oldest_used_ms + max(
                int(figures.newer_share * age_ms), figures.newer_least_ms
            )
        self._newest: list[tuple[int, str, int]] = []

    def offer(self, model_id: str, last_used_ms: int, units: int) -> None:
        if self.free_units < self.usual_units and last_used_ms <= self.newer_than_ms:
            return
        offered = (last_used_ms, model_id, units)
        if len(self._newest) < self._most_models:
            heappush(self._newest, offered)
        elif self._newest and offered > self._newest[0]:
            heapreplace(self._newest, offered)

    def chosen(self, taken: set[str]) -> Iterable[Preload]:
        used = 0
        for last_used_ms, model_id, units in sorted(self._newest, key=lambda item: (-item[0], item[1])):
            if model_id in taken:
                continue
            size = units or self.usual_units
            evicts = used + size > self.free_units
            if used + size > self.most_units or (evicts and last_used_ms <= self.newer_than_ms):
                continue
            used += size
            taken.add(model_id)
            yield Preload(model_id, last_used_ms, evicts)


class Preloading:
    """Chooses from all models of a mesh, which are offered one by one since there may be a million.

    The most recently used ones are taken, as many as fit into about half of the memory that is free beyond an eighth.

    Args:
        partitions: the instances, by the types that they are closed to.
        rule_name: of a type, the name under which partitions may be closed to it.
        default_units: assumed size of a model where no copy tells more.
        now_ms: epoch milliseconds.
        figures: how much is loaded.
    """

    def __init__(
        self,
        partitions: Iterable[Partition],
        rule_name: Callable[[str], str],
        default_units: int,
        now_ms: int,
        figures: PreloadingFigures = PreloadingFigures(),
    ) -> None:
        self._rule_name = rule_name
        self._figures = figures
        self._shares = [
            share
            for partition in partitions
            if (share := _Share(partition, now_ms, default_units, figures)).most_units >= share.usual_units
        ]

    @property
    def wanted(self) -> bool:
        """Whether anything that is offered could be taken."""
        return bool(self._shares)

    def offer(self, model_id: str, model_type: str, last_used_ms: int, failures: int, units: int = 0) -> None:
        """Considers a model that has no copy.

        Args:
            last_used_ms: epoch milliseconds.
            failures: instances where it failed to load.
            units: its size; 0 where it is not known.
        """
        if failures >= self._figures.failures:
            return
        name = self._rule_name(model_type)
        for share in self._shares:
            if name not in share.prohibited:
                share.offer(model_id, last_used_ms, units)

    def chosen(self) -> list[Preload]:
        """Returns: what is to be loaded, for each partition the most recently used first; no model twice."""
        taken: set[str] = set()
        return [preload for share in self._shares for preload in share.chosen(taken)]
