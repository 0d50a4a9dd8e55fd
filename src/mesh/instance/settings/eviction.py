"""What may be evicted, and how long a failed load is remembered."""

from dataclasses import dataclass

from mesh.instance.settings.fields import integer, one_of, setting
from mesh.placement import EvictionPolicy, EvictionRanking


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionSettings:
    """Of the cache of one instance. See `describe` for meanings."""

    ranking: EvictionRanking = setting(
        "MESH_EVICTION_POLICY",
        one_of(EvictionRanking),
        "which copies are evicted first: lru, the least recently used ones, or cost-aware, those that are quick to "
        "load again, large and seldom used",
        default=EvictionRanking.LRU,
    )
    max_victims: int = setting(
        "MESH_MAX_EVICTIONS_PER_LOAD",
        integer(1),
        "copies evicted for one load at most; larger ones are taken where that is not enough",
        default=EvictionPolicy().max_victims,
    )
    load_failure_expiry_ms: int = setting(
        "MM_LOAD_FAILURE_EXPIRY_TIME_MS",
        integer(1_000),
        "time before a failed load is tried again on the same instance, ms; half while the model is in use",
        default=900_000,
    )
    min_churn_age_ms: int | None = setting(
        "MESH_MIN_CHURN_AGE_MS",
        integer(0),
        "a copy used more recently than this is not evicted for a model that is not loaded, ms; default "
        "ten times a third of the loading timeout",
        default=None,
    )

    @property
    def policy(self) -> EvictionPolicy:
        """For the cache."""
        return EvictionPolicy(self.ranking, self.max_victims)
