"""Which models get further copies, and how many."""

from dataclasses import dataclass
from enum import StrEnum

from mesh.placement.copies.demand import Cause, Overload
from mesh.placement.copies.figures import ScalingFigures
from mesh.placement.placements import InstanceFilter
from mesh.placement.policy import CopyPolicy
from mesh.placement.ranking import ClusterStats
from mesh.placement.view import NEVER_USED_MS, InstanceView, PlacementRequest

#: A copy added for load is taken to be used so far in the future, milliseconds, so that it is not evicted before it
#: has taken some of it; as in KServe ModelMesh.
AHEAD_MS = 20_000
#: What an instance tells as its load for a copy of limited concurrency that is busy all the time.
BUSY_COPY = 1_000
#: More copies than this at a time are at most a third of the instances; as in KServe ModelMesh.
_FEW = 2


class GrowthKind(StrEnum):
    """Why copies are added."""

    RATE = "rate"
    CONCURRENCY = "concurrency"
    #: One copy, used now and some time ago: it is worth a second one that survives its instance.
    RECURRING = "recurring_use"
    #: The model's policy asks for more than there are.
    MINIMUM = "minimum"


@dataclass(frozen=True, slots=True)
class Growth:
    """A model is to have more copies.

    Attributes:
        copies: that it is to have, those that it has included.
        message: why, for people.
    """

    model_id: str
    kind: GrowthKind
    copies: int
    message: str


@dataclass(frozen=True, slots=True)
class CopiesNow:
    """A model's copies as they count for scaling: on instances that are there and not leaving.

    Attributes:
        loaded: can serve.
        loading: cannot yet; what they will take on is not known.
        possible: instances that can have the model, those with a copy included.
    """

    loaded: int
    loading: int
    possible: int
    policy: CopyPolicy

    @property
    def all(self) -> int:
        """Copies there are or will be."""
        return self.loaded + self.loading

    def at_most(self, copies: int) -> int:
        """So many copies, as far as instances and the model's policy allow."""
        allowed = self.policy.max_copies or copies
        return min(copies, self.possible, allowed)


def for_load(overload: Overload, now: CopiesNow, elsewhere_rpm: int = 0) -> Growth | None:
    """Decides for a copy that is asked too much.

    While copies are on their way nothing is decided: what is asked of each will be less with them. Nor are copies added
    where those that are there could take all: requests that come to one instance may go to the copy there for the
    simple reason that it answers them quickly.

    Args:
        elsewhere_rpm: requests per minute of the other copies together.

    Returns: None where nothing is to be or can be done.
    """
    if now.loading or now.loaded == 0:
        return None
    further = overload.further_copies
    if overload.cause is Cause.RATE:
        further = (overload.amount + elsewhere_rpm) // overload.threshold + 1 - now.loaded
    if further > _FEW:
        further = max(_FEW, min(further, now.possible // 3))
    copies = now.at_most(now.loaded + further)
    if copies <= now.loaded:
        return None
    return Growth(overload.model_id, GrowthKind(overload.cause.value), copies, str(overload))


def for_recurring_use(
    model_id: str, now: CopiesNow, stats: ClusterStats, now_ms: int, figures: ScalingFigures
) -> Growth | None:
    """Decides for a model whose use recurs: it gets a second copy where that costs others little.

    Args:
        stats: of the instances that can have the model.
        now_ms: epoch milliseconds.

    Returns: None where it has two, or may not have them, or memory is short.
    """
    if now.all != 1 or now.at_most(2) < 2:
        return None
    if stats.free_share <= 1 - figures.full_share and oldest_age_ms(stats, now_ms) <= figures.unmissed_ms:
        return None
    minutes = figures.second_copy_min_age_ms // 60_000, figures.second_copy_max_age_ms // 60_000
    message = f"has one copy, and is used now as it was {minutes[0]} to {minutes[1]} minutes ago"
    return Growth(model_id, GrowthKind.RECURRING, 2, message)


def for_minimum(model_id: str, now: CopiesNow) -> Growth | None:
    """Decides for a model whose policy asks for copies.

    Returns: None where it has them, or no instance is left that can have one more.
    """
    kept = now.policy.kept_copies
    copies = now.at_most(kept)
    if now.all >= copies:
        return None
    reason = "is pinned" if kept > now.policy.min_copies else f"is to have at least {kept}"
    return Growth(model_id, GrowthKind.MINIMUM, copies, f"has {now.all} copies and {reason}")


def oldest_age_ms(stats: ClusterStats, now_ms: int) -> int:
    """How long ago the least recently used copy of some instances was used, milliseconds; for ever without copies."""
    return now_ms if stats.oldest_used_ms == NEVER_USED_MS else max(0, now_ms - stats.oldest_used_ms)


def not_as_busy(own_load: int, one_copy: int) -> InstanceFilter:
    """A condition for places of copies added for load: an instance about as busy as this one is no help.

    Args:
        own_load: of the instance whose copy is asked too much, as it tells it of itself: requests per minute, or
            `BUSY_COPY` for each copy of limited concurrency that is busy all the time.
        one_copy: the load that one copy is to take.
    """
    most = max(4 * one_copy, own_load - 2 * one_copy)

    def refuse(view: InstanceView, _: PlacementRequest) -> str:
        if view.requests_per_minute > most:
            return f"is busy itself: its load is {view.requests_per_minute}, and {most} would be the most"
        return ""

    return refuse
