"""Which copies of one instance the mesh can do without."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from mesh.placement.copies.demand import DemandView
from mesh.placement.copies.figures import ScalingFigures
from mesh.placement.copies.growth import oldest_age_ms
from mesh.placement.policy import CopyPolicy
from mesh.placement.ranking import ClusterStats
from mesh.placement.view import InstanceView

#: What one copy of several takes is to be well below what it is to take, before one of them goes.
_LOW_SHARE = 2 / 3
#: The others must not be close to the threshold once they share what this one takes now, or it would come back.
_AFTERWARDS_SHARE = 3 / 4
#: With more copies than this, load decides; with so many, use.
_TWO = 2


class SurplusKind(StrEnum):
    """Why a copy is taken away."""

    #: The model has more copies than its policy allows.
    MAXIMUM = "maximum"
    #: Not used for as long as the policy, or the setting, says.
    IDLE = "idle"
    #: The second of two, not used for long.
    SPARE = "spare"
    #: One of more than two whose load has gone.
    CALM = "calm"


@dataclass(frozen=True, slots=True)
class Surplus:
    """A copy here that is to go.

    Attributes:
        keep: it goes only while so many others are there.
        pause_ms: it goes only where no other copy was taken away within this, milliseconds.
        message: why, for people.
    """

    model_id: str
    kind: SurplusKind
    keep: int
    message: str
    pause_ms: int = 0


@dataclass(frozen=True, slots=True)
class CopyHere:
    """A loaded copy of this instance. Sizes in units of 8 KiB, times in epoch milliseconds.

    Attributes:
        since_ms: when its load began.
        others: instances with a copy, live and not leaving, and when its load began.
        last_unload_ms: when a copy of the model was last taken away; 0 for long ago.
        stats: of the instances that can have the model.
    """

    model_id: str
    units: int
    last_used_ms: int
    since_ms: int
    in_flight: int
    others: Mapping[str, int]
    last_unload_ms: int
    policy: CopyPolicy
    demand: DemandView
    stats: ClusterStats

    def idle_ms(self, now_ms: int) -> int:
        """How long it has been there without being used."""
        return 0 if self.in_flight else now_ms - max(self.last_used_ms, self.since_ms)


def find_surplus(
    copies: Iterable[CopyHere],
    here: InstanceView,
    places: Mapping[str, InstanceView],
    now_ms: int,
    figures: ScalingFigures,
) -> list[Surplus]:
    """Finds the copies here that are to go, the longest unused first.

    Each instance judges its own. Two may come to the same end at once: a copy leaves its model's record only while the
    record shows enough others, so that one of them goes.

    Args:
        copies: that this instance has, all loaded.
        here: this instance.
        places: every instance by id.
        now_ms: epoch milliseconds.
    """
    found = []
    budget = max(1, int(here.capacity_units * figures.share_per_run))
    spared = 0
    for copy in sorted(copies, key=lambda copy: copy.last_used_ms):
        surplus = _above_maximum(copy, here.instance_id) or _idle(copy, now_ms, figures)
        if surplus is not None:
            found.append(surplus)
            continue
        surplus = _calm(copy, now_ms, figures) or _spare(copy, here, places, now_ms, figures)
        if surplus is not None and (spared == 0 or spared + copy.units <= budget):
            spared += copy.units
            found.append(surplus)
    return found


def _above_maximum(copy: CopyHere, own_id: str) -> Surplus | None:
    """The newest go."""
    most = copy.policy.max_copies
    older = sum((since_ms, other) < (copy.since_ms, own_id) for other, since_ms in copy.others.items())
    if most == 0 or older < most:
        return None
    message = f"the model has {len(copy.others) + 1} copies and is to have at most {most}"
    return Surplus(copy.model_id, SurplusKind.MAXIMUM, most, message)


def _idle(copy: CopyHere, now_ms: int, figures: ScalingFigures) -> Surplus | None:
    ttl_ms = copy.policy.idle_ttl_ms or figures.idle_ttl_ms
    kept = copy.policy.kept_copies
    if ttl_ms == 0 or copy.idle_ms(now_ms) < ttl_ms or len(copy.others) < kept:
        return None
    message = f"not used for {copy.idle_ms(now_ms) / 1_000:.0f} s, where {ttl_ms / 1_000:g} s are its time"
    return Surplus(copy.model_id, SurplusKind.IDLE, kept, message)


def _calm(copy: CopyHere, now_ms: int, figures: ScalingFigures) -> Surplus | None:
    others, demand = len(copy.others), copy.demand
    kept = max(_TWO, copy.policy.kept_copies)
    youngest_ms = max((*copy.others.values(), copy.since_ms))
    if (
        others < kept
        or now_ms - copy.last_unload_ms < figures.unload_pause_ms
        or now_ms - youngest_ms < figures.young_ms
        or demand.queued > 1
        or demand.peak_rpm > _LOW_SHARE * demand.threshold
        or demand.peak_rpm * (others + 1) > _AFTERWARDS_SHARE * demand.threshold * others
    ):
        return None
    message = (
        f"{demand.peak_rpm} requests/min at most for {figures.calm_ms / 60_000:g} minutes, and the other {others} "
        f"copies can take {demand.threshold} each"
    )
    return Surplus(copy.model_id, SurplusKind.CALM, kept, message, figures.unload_pause_ms)


def _spare(
    copy: CopyHere,
    here: InstanceView,
    places: Mapping[str, InstanceView],
    now_ms: int,
    figures: ScalingFigures,
) -> Surplus | None:
    if len(copy.others) != 1 or copy.policy.kept_copies >= _TWO:
        return None
    idle_ms = copy.idle_ms(now_ms)
    why = ""
    if copy.stats.free_share <= figures.pressure_share:
        limit_ms = min(figures.spare_idle_cap_ms, oldest_age_ms(copy.stats, now_ms) // 10)
        why = f" and {100 * copy.stats.free_share:.0f} % of the memory are free"
    elif figures.spare_idle_ms:
        limit_ms = figures.spare_idle_ms
    else:
        return None
    (other,) = copy.others
    if idle_ms <= limit_ms or other not in places or not _worse(here, places[other]):
        return None
    message = f"the second copy, not used for {idle_ms / 1_000:.0f} s{why}; the one at {other} stays"
    return Surplus(copy.model_id, SurplusKind.SPARE, 1, message)


def _worse(one: InstanceView, other: InstanceView) -> bool:
    """Whether a copy is better taken from one than from the other; exactly one way round for any two."""
    return _burden(one) > _burden(other)


def _burden(view: InstanceView) -> tuple[bool, int, int, int, str]:
    # In steps, so that two instances with slightly different ideas of each other agree.
    taken = 10 * view.used_units // max(1, view.capacity_units)
    return view.shutting_down, -view.version, taken, view.requests_per_minute // 1_000, view.instance_id
