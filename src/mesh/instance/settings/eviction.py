"""What may be evicted, and how long a failed load is remembered."""

from dataclasses import dataclass

from mesh.instance.settings.fields import integer, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionSettings:
    """Of the cache of one instance. See `describe` for meanings."""

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
