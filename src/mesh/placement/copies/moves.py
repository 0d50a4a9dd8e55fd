"""Which copies go to another instance, so that one that has just joined takes its part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mesh.placement.copies.surplus import CopyHere
from mesh.placement.view import InstanceView

#: An instance with less of its memory free is full.
_FULL_SHARE = 0.10
#: Memory is evened out where the shares taken lie so far apart, load where rates do by these factors of the mean.
_SHARE_GAP = 0.25
_BUSY_FACTOR = 1.5
_IDLE_FACTOR = 0.75
#: Below so many requests per minute an instance is not busy, and copies stay where they are.
_BUSY_RPM = 200
#: What was not used for so long is not worth a load elsewhere, milliseconds; the time of KServe ModelMesh's hand-over.
_USED_WITHIN_MS = 3_600_000
#: A copy stays at least so long where it was loaded, milliseconds.
_SETTLED_MS = 120_000
#: Copies that one look moves at most, and the share of the capacity that they make up, one in any case.
_MOST_MOVES = 4
_SHARE_PER_LOOK = 0.02


class MoveKind(StrEnum):
    """What a move evens out."""

    LOAD = "load"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Move:
    """A copy here that is better elsewhere.

    Attributes:
        targets: instances to which it may go.
        message: why, for people.
    """

    model_id: str
    kind: MoveKind
    targets: frozenset[str]
    message: str


def plan_moves(
    copies: Sequence[CopyHere], here: InstanceView, places: Mapping[str, InstanceView], now_ms: int
) -> list[Move]:
    """Plans what this instance gives away in one look; a few copies, so that everybody sees the effect before the next.

    Copies go from full instances to ones with much more room, and from busy ones to idle ones with room. What is
    planned never turns the difference round, so that nothing moves back.

    Args:
        copies: that this instance has, all loaded.
        here: this instance.
        places: every instance by id, this one included or not.
        now_ms: epoch milliseconds.
    """
    others = _others(here, places)
    movable = [
        copy
        for copy in copies
        if now_ms - copy.since_ms >= _SETTLED_MS
        and now_ms - copy.last_used_ms <= _USED_WITHIN_MS
        and copy.policy.allows(len(copy.others) + 1)
    ]
    if not others or not movable or here.shutting_down:
        return []
    return _for_load(copies, movable, here, others) or _for_memory(movable, here, others)


def has_too_much(here: InstanceView, places: Mapping[str, InstanceView]) -> bool:
    """Tells whether `plan_moves` would look at copies at all, which are many."""
    others = _others(here, places)
    return bool(others) and (_taken(here) >= 1 - _FULL_SHARE or _is_busy(here, _mean_load(here, others)))


def _others(here: InstanceView, places: Mapping[str, InstanceView]) -> list[InstanceView]:
    return [
        place
        for place in places.values()
        if place.instance_id != here.instance_id and not place.shutting_down
    ]


def _mean_load(here: InstanceView, others: list[InstanceView]) -> float:
    return sum(place.requests_per_minute for place in (here, *others)) / (len(others) + 1)


def _is_busy(here: InstanceView, mean: float) -> bool:
    return here.requests_per_minute >= max(_BUSY_RPM, _BUSY_FACTOR * mean)


def _for_load(
    copies: Sequence[CopyHere], movable: list[CopyHere], here: InstanceView, others: list[InstanceView]
) -> list[Move]:
    mean = _mean_load(here, others)
    if not _is_busy(here, mean):
        return []
    targets = [
        place
        for place in others
        if place.requests_per_minute < _IDLE_FACTOR * mean and _taken(place) < 1 - _FULL_SHARE
    ]
    if not targets:
        return []
    least = min(place.requests_per_minute for place in targets)
    # Half the difference evens the two out.
    excess = min(here.requests_per_minute - mean, (here.requests_per_minute - least) / 2)
    names = frozenset(place.instance_id for place in targets)
    message = (
        f"moves: {here.requests_per_minute} requests/min here, {least} at the least busy instance with room, "
        f"{mean:.0f} on average"
    )
    moves = []
    # What an instance tells of itself is in another unit where the concurrency of its copies is limited.
    demanded = sum(copy.demand.rpm for copy in copies) or 1
    for copy in sorted(movable, key=lambda copy: copy.demand.rpm, reverse=True):
        part = here.requests_per_minute * copy.demand.rpm / demanded
        if 0 < part <= excess and (to := names - copy.others.keys()):
            excess -= part
            moves.append(Move(copy.model_id, MoveKind.LOAD, to, message))
            if len(moves) == _MOST_MOVES:
                break
    return moves


def _for_memory(movable: list[CopyHere], here: InstanceView, others: list[InstanceView]) -> list[Move]:
    taken = _taken(here)
    targets = [place for place in others if taken - _taken(place) >= _SHARE_GAP]
    if taken < 1 - _FULL_SHARE or not targets:
        return []
    roomiest = min(targets, key=_taken)
    names = frozenset(place.instance_id for place in targets)
    even_units = (taken - _taken(roomiest)) / 2 * min(here.capacity_units, roomiest.capacity_units)
    budget = min(even_units, here.capacity_units * _SHARE_PER_LOOK)
    message = (
        f"moves: {100 * taken:.0f} % of the memory here are taken, {100 * _taken(roomiest):.0f} % at "
        f"{roomiest.instance_id}"
    )
    moves: list[Move] = []
    # The least recently used ones are the first that a full instance would evict.
    for copy in sorted(movable, key=lambda copy: copy.last_used_ms):
        if copy.units <= (budget if moves else even_units) and (to := names - copy.others.keys()):
            budget -= copy.units
            moves.append(Move(copy.model_id, MoveKind.MEMORY, to, message))
            if len(moves) == _MOST_MOVES:
                break
    return moves


def _taken(place: InstanceView) -> float:
    return min(1.0, place.used_units / max(1, place.capacity_units))
