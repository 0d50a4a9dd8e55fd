"""The mesh that is simulated."""

from dataclasses import dataclass

from mesh.placement import CacheLimits, EvictionPolicy


@dataclass(frozen=True, slots=True)
class Scenario:
    """Instances, their model servers, and the network and registry between them.

    Attributes:
        seed: everything that is drawn is drawn from it: the same seed gives the same run.
        instances: at the start.
        capacity_bytes: memory for models of each instance.
        default_model_bytes: size that a model server assumes of a model of which nothing is known.
        loader_threads: loads that an instance runs at a time.
        loading_timeout_ms: after which a load is given up.
        min_churn_age_ms: a copy used more recently is not evicted for another; None for ten times the time after
            which a load is assumed done.
        server_concurrency: requests that a model server works on at a time.
        hop_us: from one instance to another.
        store_latency_us: of a round trip to the registry.
        lag_us: how late an instance sees what was written.
        balanced: clients spread requests over the instances, which then prefer themselves for loads.
        zones: failure domains over which the instances are spread; 0 for none.
        policy: what is evicted first; None for the default.
        sample_us: what copies are asked is looked at so often while they are used, for further copies; 0 for never.
        own_views: each instance sees the others by itself, so that what one sees can fail; needs more memory
            and time.
    """

    seed: int = 0
    instances: int = 10
    capacity_bytes: int = 8 << 30
    default_model_bytes: int = 64 << 20
    loader_threads: int = 4
    loading_timeout_ms: int = 90_000
    min_churn_age_ms: int | None = None
    server_concurrency: int = 16
    hop_us: int = 500
    store_latency_us: int = 4_000
    lag_us: int = 10_000
    balanced: bool = False
    zones: int = 0
    policy: EvictionPolicy | None = None
    own_views: bool = False
    sample_us: int = 250_000

    def __post_init__(self) -> None:
        for name in ("instances", "loader_threads", "server_concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")

    def limits(self) -> CacheLimits:
        """Returns: the limits of each instance's cache.

        Raises:
            ValueError: a value is out of range; the message names it.
        """
        return CacheLimits.from_runtime(
            capacity_bytes=self.capacity_bytes,
            default_model_size_bytes=self.default_model_bytes,
            max_loading_concurrency=self.loader_threads,
            loading_timeout_ms=self.loading_timeout_ms,
            min_churn_age_ms=self.min_churn_age_ms,
        )
