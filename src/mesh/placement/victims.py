"""Who has to go so that a model gets in."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from heapq import nlargest

from mesh.placement.entries import CopyState, Entry
from mesh.placement.order import Order
from mesh.placement.view import NEVER_USED_MS
from mesh.placement.worth import EvictionRanking, Ranking, make_ranking

#: A search ends after so many entries that may not go: those behind them will hardly be others.
_PASSED_AT_MOST = 1_024


@dataclass(frozen=True, slots=True)
class EvictionPolicy:
    """What may be evicted for a new model, and in which order.

    Attributes:
        ranking: the order.
        max_victims: copies evicted for one model at most. Where the first ones are so small that more would
            be needed, the largest of those that may go are taken instead.
    """

    ranking: EvictionRanking = EvictionRanking.LRU
    max_victims: int = 512

    def __post_init__(self) -> None:
        if self.max_victims < 1:
            raise ValueError(f"max_victims is {self.max_victims}, must be at least 1")


class Limit(Enum):
    """What ended a search for victims."""

    #: Nothing: all entries were looked at.
    NONE = 0
    #: The next one was used so recently that it would only be missed.
    CHURN = 1
    #: The next one was used more recently than the model that wants to come in.
    NEWER = 2


@dataclass(frozen=True, slots=True)
class Search:
    """The result of a search.

    Attributes:
        victims: enough to make the room, or empty.
        later: there would be enough once requests in flight and loads under way have ended.
        limit: why there is no more to be had.
        next_used_ms: last use of the entry at the limit.
        available_units: what could be evicted now.
        hope_ms: where that is too little: no sooner is more to be had, unless entries change otherwise than by time;
            0 where that is not known.
    """

    victims: tuple[Entry, ...]
    later: bool = False
    limit: Limit = Limit.NONE
    next_used_ms: int = 0
    available_units: int = 0
    hope_ms: int = 0


class EvictionOrder:
    """The entries of a cache in the order in which they would be evicted.

    Copies used so recently that they may not go are kept apart, in the order of their use, and join the ranking when
    their time has come: so a search never wades through them, however many they are.
    """

    def __init__(self, policy: EvictionPolicy) -> None:
        self.max_victims = policy.max_victims
        self.ranking: Ranking = make_ranking(policy.ranking)
        self._recent = Order(_last_use)
        self._by_use = Order(_last_use)

    def add(self, entry: Entry) -> None:
        """Takes an entry in, or in anew where its state, size or priority has changed."""
        if entry.pinned:
            self.discard(entry)
            return
        self._by_use.add(entry)
        if entry.state is CopyState.LOADED:
            self.ranking.discard(entry)
            self._recent.add(entry)
        else:
            self._recent.discard(entry)
            self.ranking.add(entry)

    def discard(self, entry: Entry) -> None:
        """Lets go of an entry."""
        self._by_use.discard(entry)
        self._recent.discard(entry)
        self.ranking.discard(entry)

    def oldest(self) -> Entry | None:
        """Returns: the entry whose last use is longest ago, of those that are not pinned."""
        return self._by_use.first()

    def oldest_recent(self, used_after_ms: int) -> Entry | None:
        """Returns: of the copies used later than that, the one whose last use is longest ago."""
        self._let_join(used_after_ms)
        return self._recent.first()

    def pop(self, used_after_ms: int) -> Entry | None:
        """Takes out the entry to be evicted first, other than copies used later than that; None where there is none.

        `put_back` must follow.
        """
        self._let_join(used_after_ms)
        while (entry := self.ranking.pop()) is not None:
            if entry.state is CopyState.LOADED and entry.last_used_ms > used_after_ms:
                self._recent.add(entry)
            else:
                return entry
        return None

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Takes back what `pop` took out."""
        self.ranking.put_back(entries)

    def _let_join(self, used_after_ms: int) -> None:
        recent = self._recent
        while (entry := recent.first()) is not None and entry.last_used_ms <= used_after_ms:
            recent.discard(entry)
            self.ranking.add(entry)


def find_victims(
    order: EvictionOrder, shortage: int, now_ms: int, *, newcomer: Entry | None, churn_before_ms: int
) -> Search:
    """Chooses the entries to evict: the first ones in their order, and of those only as many as are needed.

    A copy with requests in flight, one that was just loaded and one being loaded are never chosen. A
    preemptive load that has not begun gives way to one that a request waits for.

    Args:
        order: the entries.
        shortage: units to be freed, at least 1.
        now_ms: epoch milliseconds.
        newcomer: only entries used before it was are chosen; None where room must be made in any case.
        churn_before_ms: only copies used before this are chosen.
    """
    displaces = newcomer is not None and newcomer.urgent
    # Somebody waits for an urgent one at this very moment, which is newer than any use there was.
    newcomer_used_ms = NEVER_USED_MS if newcomer is None else newcomer.last_used_ms
    if displaces:
        newcomer_used_ms = max(newcomer_used_ms, now_ms + 1)
    oldest = order.oldest()
    if oldest is not None and oldest is not newcomer and oldest.last_used_ms >= newcomer_used_ms:
        return Search((), limit=Limit.NEWER, next_used_ms=oldest.last_used_ms)
    passed: list[Entry] = []
    idle: list[Entry] = []
    idle_units = busy_units = newer_used_ms = 0
    hope_ms = NEVER_USED_MS
    while len(passed) - len(idle) < _PASSED_AT_MOST and (entry := order.pop(churn_before_ms)) is not None:
        passed.append(entry)
        state = entry.state
        if entry is newcomer:
            continue
        if entry.last_used_ms >= newcomer_used_ms:
            newer_used_ms = newer_used_ms or entry.last_used_ms
            hope_ms = min(hope_ms, entry.last_used_ms)
            continue
        if (state is CopyState.LOADED and entry.safe_until_ms > now_ms) or not (
            state in _MAY_GO or (displaces and state is CopyState.QUEUED and not entry.urgent)
        ):
            # What is on its way now can go once those who wait for it have been served.
            busy_units += entry.units
            if state is CopyState.LOADED:
                hope_ms = min(hope_ms, entry.safe_until_ms)
            continue
        idle.append(entry)
        idle_units += entry.units
        if idle_units >= shortage and len(idle) <= order.max_victims:
            break
    order.put_back(passed)
    if idle_units < shortage:
        limit, next_used_ms = _limit(order, newcomer_used_ms, newer_used_ms, churn_before_ms)
        if len(passed) - len(idle) >= _PASSED_AT_MOST:
            hope_ms = 0
        elif (recent := order.oldest_recent(churn_before_ms)) is not None:
            hope_ms = min(hope_ms, recent.last_used_ms + now_ms - churn_before_ms)
        return Search((), idle_units + busy_units >= shortage, limit, next_used_ms, idle_units, hope_ms)
    if len(idle) > order.max_victims:
        idle = nlargest(order.max_victims, idle, key=lambda entry: entry.units)
        idle_units = sum(entry.units for entry in idle)
        if idle_units < shortage:
            limit, next_used_ms = _limit(order, newcomer_used_ms, newer_used_ms, churn_before_ms)
            return Search((), limit=limit, next_used_ms=next_used_ms, available_units=idle_units)
    needed = []
    for entry in reversed(idle):
        if idle_units - entry.units >= shortage:
            idle_units -= entry.units
        else:
            needed.append(entry)
    return Search(tuple(reversed(needed)), available_units=idle_units)


_MAY_GO = frozenset({CopyState.LOADED, CopyState.FAILED})


def _limit(
    order: EvictionOrder, newcomer_used_ms: int, newer_used_ms: int, churn_before_ms: int
) -> tuple[Limit, int]:
    if newer_used_ms:
        return Limit.NEWER, newer_used_ms
    recent = order.oldest_recent(churn_before_ms)
    if recent is None:
        return Limit.NONE, 0
    return Limit.NEWER if recent.last_used_ms >= newcomer_used_ms else Limit.CHURN, recent.last_used_ms


def _last_use(entry: Entry) -> int:
    return entry.last_used_ms
