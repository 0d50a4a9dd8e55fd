"""One instance of the mesh: what a pod runs beside its model server."""

from mesh.instance.instance import Instance
from mesh.instance.serve import run, serve
from mesh.instance.settings import MetricsSettings, SettingError, Settings, describe

__all__ = ["Instance", "MetricsSettings", "SettingError", "Settings", "describe", "run", "serve"]
