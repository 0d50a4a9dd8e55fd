"""What is read of an instance and of the mesh at each scrape."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InstanceGauges:
    """What an instance tells of its cache.

    Attributes:
        oldest_used_ms: epoch milliseconds of the oldest entry's last use; None where the cache is empty.
        capacity_bytes: without the unload buffer.
        used_bytes: without the unload buffer.
        models: cache entries.
        deficit_bytes: taken beyond what the model server has, since models turned out larger than estimated.
    """

    oldest_used_ms: int | None
    capacity_bytes: int
    used_bytes: int
    models: int
    deficit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ClusterGauges:
    """What the leader tells of the whole mesh."""

    managed: int
    loaded: int
    failed: int
    vmodels: int
    vmodels_moving: int
    vmodels_failed: int
