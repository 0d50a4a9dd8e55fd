"""What is looked after beside requests, and how often."""

from dataclasses import dataclass

from mesh.instance.settings.fields import boolean, integer, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepSettings:
    """Of janitor, reaper and preloading; the figures of KServe ModelMesh. See `describe` for meanings."""

    janitor_interval_s: int = setting(
        "MESH_JANITOR_INTERVAL_S",
        integer(1),
        "time between two comparisons of the copies here with the registry, s",
        default=360,
    )
    reaper_delay_s: int = setting(
        "MESH_REAPER_DELAY_S",
        integer(0),
        "time from an instance's election as leader to its first run as reaper, s; half of it while a registry is "
        "moved",
        default=120,
    )
    reaper_interval_s: int = setting(
        "MESH_REAPER_INTERVAL_S",
        integer(1),
        "time between two runs of the reaper, which forgets dead instances and loads models ahead of demand, s",
        default=420,
    )
    dead_after_s: int = setting(
        "MESH_DEAD_INSTANCE_AGE_S",
        integer(0),
        "time after which models' records forget an instance that is gone, s",
        default=600,
    )
    preload: bool = setting(
        "MESH_PRELOAD",
        boolean,
        "whether the leader has models that were used lately loaded into memory that nobody uses",
        default=True,
    )
    source_interval_s: int = setting(
        "MESH_SOURCE_CHECK_INTERVAL_S",
        integer(0),
        "time between two looks at whether the data of the models here has changed in storage, s; 0 for none",
        default=0,
    )
    reload_evicted: bool = setting(
        "MESH_RELOAD_EVICTED",
        boolean,
        "whether a model that was evicted here is loaded on another instance that has room",
        default=True,
    )
