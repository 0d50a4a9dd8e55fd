"""The figures that bound one instance's cache, worked out once from what its runtime tells."""

from dataclasses import dataclass

#: Model memory is counted in units of 8 KiB, as KServe ModelMesh does in its records.
UNIT_BYTES = 8192

_SPACE_WAIT_MS = 180_000
_FAILURE_EXPIRY_MS = 900_000
_PASSING_FAILURE_EXPIRY_MS = 20_000
_UNAVAILABLE = 14
_JUST_LOADED_MS = 5_000


def to_units(size_bytes: int) -> int:
    """Rounds bytes up to whole units."""
    return -(-size_bytes // UNIT_BYTES)


def unload_buffer_units(capacity: int, default_model: int, loader_threads: int) -> int:
    """Memory kept free so that a load need not wait for the unload that makes room for it.

    Room for what the loaders may bring in at once, between 1 % and 10 % of the capacity; the formula of
    KServe ModelMesh.
    """
    at_once = default_model * loader_threads // (2 if loader_threads <= 2 else 4)
    return max(min(at_once, capacity // 10), capacity // 100)


def full_threshold_units(capacity: int, default_model: int, loader_threads: int) -> int:
    """An instance with less free memory than this counts as full; the formula of KServe ModelMesh."""
    return max(default_model, min(default_model * loader_threads, capacity // 20))


def default_assume_loaded_ms(loading_timeout_ms: int) -> int:
    """How long after its start a load is assumed done before there are statistics; as in KServe ModelMesh."""
    return max(3_000, loading_timeout_ms // 3)


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """What one instance's cache may hold and how long it waits, in units of 8 KiB and in milliseconds.

    Attributes:
        capacity: all memory that the runtime gives to models.
        unload_buffer: part of it kept for models being unloaded.
        default_model: assumed size of a model of which nothing is known.
        loader_threads: loads at once.
        loading_timeout_ms: after which a load is cancelled.
        min_churn_age_ms: a copy used more recently than this is not evicted for a new one.
        full_threshold: with less free than this the instance counts as full.
        space_wait_ms: how long a load waits for memory.
        failure_expiry_ms: how long a failed load is remembered; half as long where the model is in use.
        passing_failure_expiry_ms: the same for one that says by its code that it may pass: storage or a model
            server that is away for a moment.
        just_loaded_ms: how long a new copy is safe, so that the requests which waited for it find it.
    """

    capacity: int
    unload_buffer: int
    default_model: int
    loader_threads: int
    loading_timeout_ms: int
    min_churn_age_ms: int
    full_threshold: int
    space_wait_ms: int = _SPACE_WAIT_MS
    failure_expiry_ms: int = _FAILURE_EXPIRY_MS
    passing_failure_expiry_ms: int = _PASSING_FAILURE_EXPIRY_MS
    just_loaded_ms: int = _JUST_LOADED_MS

    def __post_init__(self) -> None:
        for name in ("capacity", "default_model", "loader_threads", "loading_timeout_ms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 0 <= self.unload_buffer < self.capacity:
            raise ValueError(
                f"unload_buffer is {self.unload_buffer}, must be at least 0 and below the capacity, "
                f"{self.capacity}"
            )

    def failure_lifetime_ms(self, code: int) -> int:
        """How long a load that failed with this gRPC status code is remembered."""
        if code == _UNAVAILABLE:
            return min(self.passing_failure_expiry_ms, self.failure_expiry_ms)
        return self.failure_expiry_ms

    @classmethod
    def from_runtime(
        cls,
        *,
        capacity_bytes: int,
        default_model_size_bytes: int,
        max_loading_concurrency: int,
        loading_timeout_ms: int,
        min_churn_age_ms: int | None = None,
        failure_expiry_ms: int = _FAILURE_EXPIRY_MS,
    ) -> "CacheLimits":
        """Works the limits out from a runtime's parameters.

        Args:
            capacity_bytes: memory for models; rounded down to whole units.
            default_model_size_bytes: rounded up to whole units.
            max_loading_concurrency: loads at once.
            loading_timeout_ms: after which a load is cancelled.
            min_churn_age_ms: None for ten times the time after which a load is assumed done.
            failure_expiry_ms: how long a failed load is remembered.

        Raises:
            ValueError: a value is out of range; the message names it.
        """
        capacity = capacity_bytes // UNIT_BYTES
        default_model = to_units(default_model_size_bytes)
        if min_churn_age_ms is None:
            min_churn_age_ms = 10 * default_assume_loaded_ms(loading_timeout_ms)
        return cls(
            capacity=capacity,
            unload_buffer=unload_buffer_units(capacity, default_model, max_loading_concurrency),
            default_model=default_model,
            loader_threads=max_loading_concurrency,
            loading_timeout_ms=loading_timeout_ms,
            min_churn_age_ms=min_churn_age_ms,
            full_threshold=full_threshold_units(capacity, default_model, max_loading_concurrency),
            failure_expiry_ms=failure_expiry_ms,
        )


def size_text(units: int) -> str:
    """Writes a size for people, in the largest binary unit that leaves a whole part."""
    size = float(units * UNIT_BYTES)
    for name in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {name}"
    return f"{size / 1024:.1f} TiB"
