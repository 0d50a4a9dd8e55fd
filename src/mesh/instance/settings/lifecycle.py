"""Joining and leaving the mesh."""

from dataclasses import dataclass

from mesh.instance.settings.fields import integer, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleSettings:
    """Of one instance's start and end. See `describe` for meanings."""

    shutdown_timeout_ms: int = setting(
        "SHUTDOWN_TIMEOUT_MS",
        integer(1_000),
        "budget for handing models over when told to stop, ms",
        default=30_000,
    )
