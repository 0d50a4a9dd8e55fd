"""Which copy would be missed least."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import exp, inf
from typing import Protocol

from mesh.placement.entries import CopyState, Entry
from mesh.placement.limits import size_text
from mesh.placement.order import Order

#: Uses less than this apart count as one, milliseconds: had the copy not been there, they would have shared a load.
USE_SLOT_MS = 1_000
#: Of how many evicted models the uses are remembered, for each model that is here.
GHOSTS_PER_ENTRY = 4
#: Evicted models remembered at least.
LEAST_GHOSTS = 64
#: How much a measure is trusted less for one wrong eviction of a model that takes as long to load as most; and how
#: much of that is left for an eviction so long ago that all the cache has changed since. Found by trying, with
#: ``mesh simulate evictions``; half or twice as much makes little difference.
LEARNING_RATE = 0.06
FADED = 0.1
#: No measure is given up for good.
LEAST_TRUST = 0.01
#: Share of the disputed evictions that the count of uses has to choose to begin with: it has counted few by then.
FIRST_TRUST = 0.2

_NOT_BEGUN = frozenset({CopyState.NEW, CopyState.QUEUED})
_RECENCY, _FREQUENCY = 0, 1


class EvictionRanking(StrEnum):
    """How an instance chooses what to evict."""

    #: Least recently used first, as KServe ModelMesh does.
    LRU = "lru"
    #: What is cheap to load again, large, and seldom used first.
    COST_AWARE = "cost-aware"


class Ranking(Protocol):
    """Entries in the order in which they would be missed, the least missed first; lower priorities before that."""

    def add(self, entry: Entry) -> None:
        """Takes an entry in, or in anew after it changed otherwise than by being used."""

    def discard(self, entry: Entry) -> None:
        """Lets go of an entry, where it is in."""

    def pop(self) -> Entry | None:
        """Takes the entry out that would be missed least. The caller evicts it or gives it back."""

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Takes back all that was taken out since the last call."""

    def loaded(self, entry: Entry) -> None:
        """A load has ended well: ``units`` and ``load_ms`` are known."""

    def used(self, entry: Entry) -> None:
        """An entry was used at its ``last_used_ms``."""

    def evicted(self, entry: Entry) -> str:
        """An entry goes to make room.

        Returns: why this one, for people.
        """


class LeastRecentlyUsed:
    """The order of KServe ModelMesh."""

    def __init__(self) -> None:
        self._order = Order(lambda entry: (entry.priority, entry.last_used_ms))
        self.add, self.discard, self.pop = self._order.add, self._order.discard, self._order.pop
        self.put_back = self._order.add_all

    def loaded(self, entry: Entry) -> None:
        """Changes nothing."""

    def used(self, entry: Entry) -> None:
        """Needs no telling: the order looks for itself."""

    def evicted(self, entry: Entry) -> str:
        """It was the oldest."""
        return "least recently used"


@dataclass(frozen=True, slots=True)
class _Ghost:
    """What is remembered of an evicted model.

    Attributes:
        chosen_by: the measure that had it evicted against the other one; None where both did.
        number: of the eviction.
    """

    uses: int
    load_ms: int
    chosen_by: int | None
    number: int


class CostAware:
    """Greedy-Dual-Size-Frequency, with the time that a load takes as the cost.

    A copy's worth is ``age + uses * load time / size``, where the age is the worth of what was evicted last: so a copy
    that is not used any more becomes the least worth of all in the end, however worthy it was. How often a model was
    used is remembered for a while after it was evicted.

    That a model was used often says that it will be used again only where popularity lasts. Where models have their
    hour and are then left alone, it keeps the wrong ones. So there are two measures, one of which takes no count of
    uses, and they share the evictions by how well each has done: a model that has to be loaded again counts against
    the measure that had it evicted, by how long that takes (the regret of LeCaR, "Driving Cache Replacement with
    ML-based LeCaR", HotStorage 2018), and by how seldom that measure had its way, so that the one which chooses more
    is not blamed more for that alone.
    """

    def __init__(self) -> None:
        self._orders = tuple(Order(_key_of(measure)) for measure in (_RECENCY, _FREQUENCY))
        self._ages = [0.0, 0.0]
        self._ghosts: OrderedDict[str, _Ghost] = OrderedDict()
        self._evictions = 0
        self._usual_load_ms = 0.0
        #: Share of the evictions that are the frequency's to choose, and of how many it is owed the choice.
        self._trust = FIRST_TRUST
        self._owed = 0.0
        self._owed_in_search = 0.0

    def add(self, entry: Entry) -> None:
        """Files it by both measures."""
        for order in self._orders:
            order.add(entry)

    def discard(self, entry: Entry) -> None:
        """Lets go of it by both measures."""
        for order in self._orders:
            order.discard(entry)

    def pop(self) -> Entry | None:
        """Has the measure choose whose turn it is, where they do not agree."""
        chosen, other = (order.first() for order in self._orders)
        if chosen is None or other is None:
            return None
        if chosen is other:
            chosen.chosen_by = None
        else:
            self._owed_in_search += self._trust
            chosen.chosen_by = _RECENCY
            if self._owed_in_search >= 1:
                self._owed_in_search -= 1
                chosen = other
                chosen.chosen_by = _FREQUENCY
        self.discard(chosen)
        return chosen

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Ends a search."""
        for entry in entries:
            self.add(entry)
        self._owed_in_search = self._owed

    def loaded(self, entry: Entry) -> None:
        """Weighs it, and takes in who was wrong where it was here before."""
        load_ms = max(1, entry.load_ms)
        self._usual_load_ms += (load_ms - self._usual_load_ms) * (0.01 if self._usual_load_ms else 1)
        ghost = self._ghosts.pop(entry.model_id, None)
        entry.uses, entry.counted_ms = int(entry.urgent), entry.loaded_ms
        if ghost is not None:
            entry.uses += ghost.uses
            # One load may have been held up by others.
            entry.load_ms = (load_ms + ghost.load_ms) // 2
            if entry.urgent and ghost.chosen_by is not None:
                self._regret(ghost.chosen_by, entry, ghost.number)
        entry.worth = (0.0, 0.0)
        self._weigh(entry)

    def used(self, entry: Entry) -> None:
        """Weighs it anew."""
        if entry.last_used_ms >= entry.counted_ms + USE_SLOT_MS:
            entry.counted_ms = entry.last_used_ms
            entry.uses += 1
            self._weigh(entry)

    def evicted(self, entry: Entry) -> str:
        """Lets all others age, and remembers it."""
        chosen_by = entry.chosen_by
        for measure, worth in enumerate(entry.worth):
            if chosen_by in {None, measure} and worth > self._ages[measure]:
                self._ages[measure] = worth
        if chosen_by is not None:
            self._owed += self._trust - (chosen_by == _FREQUENCY)
            self._owed_in_search = self._owed
        self._evictions += 1
        self._ghosts[entry.model_id] = _Ghost(entry.uses, entry.load_ms, chosen_by, self._evictions)
        if len(self._ghosts) > max(LEAST_GHOSTS, GHOSTS_PER_ENTRY * len(self._orders[0])):
            self._ghosts.popitem(last=False)
        return f"least worth keeping: {size_text(entry.units)}, {entry.load_ms / 1_000:g} s to load, {entry.uses} uses"

    def _weigh(self, entry: Entry) -> None:
        cost = max(1, entry.load_ms) / max(1, entry.units)
        recency, frequency = entry.worth
        # Never less than before: a use makes no copy less worth, and the orders rely on that.
        entry.worth = (
            max(recency, self._ages[_RECENCY] + cost),
            max(frequency, self._ages[_FREQUENCY] + max(1, entry.uses) * cost),
        )

    def _regret(self, measure: int, entry: Entry, number: int) -> None:
        turnovers = (self._evictions - number) / max(1, len(self._orders[0]))
        trust = [1 - self._trust, self._trust]
        loss = LEARNING_RATE * entry.load_ms / self._usual_load_ms * FADED**turnovers
        trust[measure] *= exp(-loss / trust[measure])
        share = trust[_FREQUENCY] / sum(trust)
        self._trust = min(1 - LEAST_TRUST, max(LEAST_TRUST, share))


def make_ranking(kind: EvictionRanking) -> Ranking:
    """Returns: a ranking of that kind, empty."""
    return CostAware() if kind is EvictionRanking.COST_AWARE else LeastRecentlyUsed()


def _key_of(measure: int) -> Callable[[Entry], tuple[int, float, int]]:
    def key(entry: Entry) -> tuple[int, float, int]:
        state = entry.state
        if state is CopyState.LOADED:
            worth = entry.worth[measure]
        elif state is CopyState.FAILED or (state in _NOT_BEGUN and not entry.urgent):
            # Nothing would have to be loaded again.
            worth = 0.0
        else:
            worth = inf
        return entry.priority, worth, entry.last_used_ms

    return key
