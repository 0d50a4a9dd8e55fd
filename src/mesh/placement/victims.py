"""Who has to go so that a model gets in."""

from dataclasses import dataclass
from enum import Enum
from heapq import nlargest

from mesh.placement.entries import CopyState, Entry, LruOrder
from mesh.placement.view import NEVER_USED_MS


@dataclass(frozen=True, slots=True)
class EvictionPolicy:
    """What may be evicted for a new model. Least recently used first.

    Attributes:
        max_victims: copies evicted for one model at most. Where the oldest ones are so small that more would
            be needed, the largest of those that may go are taken instead.
    """

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
    """

    victims: tuple[Entry, ...]
    later: bool = False
    limit: Limit = Limit.NONE
    next_used_ms: int = 0
    available_units: int = 0


def find_victims(
    lru: LruOrder,
    shortage: int,
    now_ms: int,
    policy: EvictionPolicy,
    *,
    newcomer: Entry | None,
    churn_before_ms: int,
) -> Search:
    """Chooses the entries to evict: the least recently used ones, and of those only as many as are needed.

    A copy with requests in flight, one that was just loaded and one being loaded are never chosen. A
    preemptive load that has not begun gives way to one that a request waits for.

    Args:
        lru: the entries.
        shortage: units to be freed, at least 1.
        now_ms: epoch milliseconds.
        policy: the bounds.
        newcomer: only entries used before it was are chosen; None where room must be made in any case.
        churn_before_ms: only copies used before this are chosen.
    """
    passed: list[Entry] = []
    idle: list[Entry] = []
    idle_units = busy_units = 0
    limit, next_used_ms = Limit.NONE, 0
    displaces = newcomer is not None and newcomer.urgent
    # Somebody waits for an urgent one at this very moment, which is newer than any use there was.
    newcomer_used_ms = NEVER_USED_MS if newcomer is None else newcomer.last_used_ms
    if displaces:
        newcomer_used_ms = max(newcomer_used_ms, now_ms + 1)
    while (entry := lru.pop_oldest()) is not None:
        passed.append(entry)
        used_ms = entry.last_used_ms
        if used_ms >= newcomer_used_ms and entry is not newcomer:
            limit, next_used_ms = Limit.NEWER, used_ms
            break
        state = entry.state
        if state is CopyState.LOADED:
            if entry.closing_for is not None:
                continue
            if used_ms > churn_before_ms:
                limit, next_used_ms = Limit.CHURN, used_ms
                break
            if entry.safe_until_ms > now_ms:
                busy_units += entry.units
                continue
        elif state is not CopyState.FAILED and not (
            displaces and state is CopyState.QUEUED and not entry.urgent and entry is not newcomer
        ):
            # What is on its way now can go once those who wait for it have been served.
            busy_units += entry.units if entry is not newcomer else 0
            continue
        idle.append(entry)
        idle_units += entry.units
        if idle_units >= shortage and len(idle) <= policy.max_victims:
            break
    lru.put_back(passed)
    if idle_units < shortage:
        return Search((), idle_units + busy_units >= shortage, limit, next_used_ms, idle_units)
    if len(idle) > policy.max_victims:
        idle = nlargest(policy.max_victims, idle, key=lambda entry: entry.units)
        idle_units = sum(entry.units for entry in idle)
        if idle_units < shortage:
            return Search((), limit=limit, next_used_ms=next_used_ms, available_units=idle_units)
    needed = []
    for entry in reversed(idle):
        if idle_units - entry.units >= shortage:
            idle_units -= entry.units
        else:
            needed.append(entry)
    return Search(tuple(reversed(needed)), available_units=idle_units)
