"""One instance of the mesh: what a pod runs beside its model server."""

from mesh.instance.instance import Instance
from mesh.instance.serve import run, serve
from mesh.instance.settings import EvictionSettings, MetricsSettings, SettingError, Settings, describe

__all__ = [
    "EvictionSettings",
    "Instance",
    "MetricsSettings",
    "SettingError",
    "Settings",
    "describe",
    "run",
    "serve",
]
