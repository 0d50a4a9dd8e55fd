"""The instances as one of them sees them when it decides where a model goes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

#: `InstanceView.oldest_used_ms` of an instance without copies, as KServe ModelMesh writes it.
NEVER_USED_MS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class InstanceView:
    """What an instance tells of itself. Memory in units of 8 KiB, times in epoch milliseconds.

    Attributes:
        capacity_units: without the unload buffer.
        oldest_used_ms: last use of the copy that would be evicted first; `NEVER_USED_MS` without copies.
        models: entries of its cache.
        loads_in_progress: queued, waiting and running.
        version: as a number that grows; 0 where unknown.
        location: host or node it is on; empty where unknown.
    """

    instance_id: str
    capacity_units: int
    used_units: int
    oldest_used_ms: int = NEVER_USED_MS
    models: int = 0
    loader_threads: int = 1
    loads_in_progress: int = 0
    requests_per_minute: int = 0
    shutting_down: bool = False
    version: int = 0
    location: str = ""
    zone: str = ""
    labels: frozenset[str] = frozenset()
    start_time_ms: int = 0

    @property
    def free_units(self) -> int:
        """Never negative, even where more is used than there should be."""
        return max(0, self.capacity_units - self.used_units)


class Exclusion(StrEnum):
    """Why an instance is out of the question for a model before anything is weighed."""

    HAS_COPY = "has_copy"
    FAILED = "failed"
    TRIED = "tried"
    EXCLUDED = "excluded"
    SUSPECT = "suspect"
    #: A request found no copy there. It is no place for the model only as long as there are others.
    NOT_SERVED = "not_served"


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """A model that needs a copy somewhere.

    Attributes:
        units: size where known, else 0.
        last_used_ms: epoch milliseconds; in the future where a busy model gets a further copy.
        excluded: instances out of the question, and why. Further copies are spread over zones and hosts; those
            that are there already are the ones excluded as `Exclusion.HAS_COPY`.
        balanced: the caller spreads its requests by itself, so that the instance it asked is a good choice.
    """

    model_id: str
    model_type: str = ""
    units: int = 0
    last_used_ms: int = 0
    excluded: Mapping[str, Exclusion] = field(default_factory=dict)
    balanced: bool = False
