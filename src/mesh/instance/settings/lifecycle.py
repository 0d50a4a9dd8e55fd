"""Joining and leaving the mesh."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.instance.settings.fields import boolean, integer, port_number_or_none, setting, text


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleSettings:
    """Of one instance's start and end. See `describe` for meanings."""

    shutdown_timeout_ms: int = setting(
        "SHUTDOWN_TIMEOUT_MS",
        integer(1_000),
        "budget for handing models over when told to stop, ms",
        default=30_000,
    )
    prestop_port: int | None = setting(
        "MM_PRESTOP_WAIT_PORT",
        port_number_or_none,
        "port of /prestop, which answers once the instance has left; NONE turns it off",
        default=8090,
    )
    read_only: bool = setting(
        "KV_READ_ONLY",
        boolean,
        "while a registry is moved: models and vmodels are neither added nor removed",
        default=False,
    )
    clearance_ms: int = setting(
        "BOOTSTRAP_CLEARANCE_PERIOD_MS",
        integer(0),
        "time after the start in which failing loads keep the instance unready for good, ms",
        default=180_000,
    )
    fail_fast: bool = setting(
        "MM_FAILFAST_UPGRADE_ENABLED",
        boolean,
        "whether an instance whose first loads fail stays unready, which holds a rollout",
        default=True,
    )
    snapshot: str = setting(
        "MESH_SNAPSHOT_PATH",
        text,
        "file that remembers the registry's records, for a start while the registry is away; empty for none",
        default="",
    )
    snapshot_every_ms: int = setting(
        "MESH_SNAPSHOT_INTERVAL_MS", integer(100), "time between two writes of that file, ms", default=60_000
    )
    snapshot_after_ms: int = setting(
        "MESH_SNAPSHOT_AFTER_MS",
        integer(0),
        "time that an instance with such a file waits for the registry at its start, ms",
        default=10_000,
    )
    termination_log: str = setting(
        "LL_TERMINATION_MSG_PATH",
        text,
        "file that is told why an instance could not start",
        default="/dev/termination-log",
    )

    @staticmethod
    def termination_log_in(environment: Mapping[str, str]) -> Path:
        """Where to tell that the settings themselves cannot be used."""
        return Path(environment.get("LL_TERMINATION_MSG_PATH") or LifecycleSettings().termination_log)
