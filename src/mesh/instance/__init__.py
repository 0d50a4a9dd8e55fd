"""One instance of the mesh: what a pod runs beside its model server."""

from mesh.instance.channels import Channels
from mesh.instance.errors import StartRefused
from mesh.instance.instance import Instance
from mesh.instance.serve import run, serve
from mesh.instance.settings import (
    CopySettings,
    EvictionSettings,
    LifecycleSettings,
    MetricsSettings,
    PlacementSettings,
    SettingError,
    Settings,
    TracingSettings,
    UpkeepSettings,
    VModelSettings,
    describe,
)

__all__ = [
    "Channels",
    "CopySettings",
    "EvictionSettings",
    "Instance",
    "LifecycleSettings",
    "MetricsSettings",
    "PlacementSettings",
    "SettingError",
    "Settings",
    "StartRefused",
    "TracingSettings",
    "UpkeepSettings",
    "VModelSettings",
    "describe",
    "run",
    "serve",
]
