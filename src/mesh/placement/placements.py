"""What a choice of an instance goes by, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from mesh.placement.decisions import Candidate, Merits
from mesh.placement.view import InstanceView, PlacementRequest

#: A hard condition of its own: returns why the instance is refused, or "" where it is fine.
InstanceFilter = Callable[[InstanceView, PlacementRequest], str]


class PlacementReason(StrEnum):
    """The outcome of a choice, for machines."""

    CHOSEN = "chosen"
    #: No instance is there, or all are shutting down.
    NO_INSTANCES = "no_instances"
    #: Every instance has a copy, failed or was tried already.
    ALL_EXCLUDED = "all_excluded"
    #: Larger than the capacity of every instance that was not excluded.
    TOO_LARGE = "too_large"
    #: Full everywhere, with copies used more recently than this model.
    NO_ROOM = "no_room"
    #: No instance has the labels that the type requires, or a filter refused all that was left.
    NOT_ELIGIBLE = "not_eligible"


@dataclass(frozen=True, slots=True)
class Placement:
    """A choice with its reasons.

    Attributes:
        chosen: instance id, or None.
        why: it was chosen, or there is none, for people.
        candidates: best first, refused ones last; about `PlacementPolicy.explained` of them.
        merits: of the chosen one.
    """

    chosen: str | None
    reason: PlacementReason
    why: str
    candidates: tuple[Candidate, ...] = ()
    merits: Merits | None = None

    @property
    def message(self) -> str:
        """One line for people."""
        return self.why if self.merits is None else f"{self.chosen} is {self.why}: {self.merits.text()}"


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """Figures of the choice. Where nothing else is said they are those of KServe ModelMesh.

    Attributes:
        least_free_share: of the best one's free memory; one with less is not about as good.
        even_models: so many models are not yet a reason to prefer another instance.
        most_models_share: of the best one's models; one with more is not about as good.
        lru_gap_ms: full instances whose oldest uses lie this close together are about as good.
        lru_gap_share: the same, as a share of the best one's age.
        wish_gap_ms: a full instance that is preferred, or in a zone without a copy, is taken where its oldest
            use lies so close to the best one's.
        wish_gap_share: the same, as a share of the best one's age.
        busy_rpm: below so many requests per minute an instance is not busy.
        shortlist: instances about as good as the best that are drawn from at most; a bound of our own.
        explained: candidates kept with their texts; 0 for none.
    """

    least_free_share: float = 0.25
    even_models: int = 10
    most_models_share: float = 1.25
    lru_gap_ms: int = 45_000
    lru_gap_share: float = 0.10
    wish_gap_ms: int = 120_000
    wish_gap_share: float = 0.25
    busy_rpm: int = 100
    shortlist: int = 64
    explained: int = 20
