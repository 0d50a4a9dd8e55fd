"""Where a model goes: filter, then score, then explain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from mesh.placement.decisions import Candidate
from mesh.placement.reservations import Reservations
from mesh.placement.view import ClusterView, InstanceView, PlacementRequest

#: A hard condition of its own: returns why the instance is refused, or "" where it is fine.
InstanceFilter = Callable[[InstanceView, PlacementRequest], str]


class PlacementReason(StrEnum):
    """The outcome of a choice, for machines."""

    CHOSEN = "chosen"
    NO_INSTANCES = "no_instances"
    #: Every instance has a copy, failed or was tried already.
    ALL_EXCLUDED = "all_excluded"
    #: Larger than the capacity of every instance that was not excluded.
    TOO_LARGE = "too_large"
    #: Full everywhere, with copies used more recently than this model.
    NO_ROOM = "no_room"
    #: A filter refused all that was left.
    NOT_ELIGIBLE = "not_eligible"


@dataclass(frozen=True, slots=True)
class Placement:
    """A choice with its reasons.

    Attributes:
        chosen: instance id, or None.
        message: one line for people.
        candidates: best first, refused ones last; at most `PlacementPolicy.explained`.
    """

    chosen: str | None
    reason: PlacementReason
    message: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """Figures of the choice; those of KServe ModelMesh.

    Attributes:
        explained: candidates kept with their texts.
    """

    explained: int = 20


def choose(
    view: ClusterView,
    request: PlacementRequest,
    now_ms: int,
    random: Random,
    *,
    reservations: Reservations | None = None,
    filters: Sequence[InstanceFilter] = (),
    policy: PlacementPolicy = PlacementPolicy(),
) -> Placement:
    """Chooses the instance that is to load a model. Adds no reservation: that is up to who carries it out.

    Args:
        view: every live instance with what its record says.
        request: the model, and where it cannot go.
        now_ms: epoch milliseconds.
        random: breaks the tie between instances that are about as good.
        reservations: placements not yet visible in the records.
        filters: further hard conditions, such as labels that a type requires.
        policy: figures of the choice.
    """
    raise NotImplementedError
