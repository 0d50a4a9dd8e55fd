"""An instance's settings and the environment variables that they come from."""

from mesh.instance.settings.copies import CopySettings
from mesh.instance.settings.eviction import EvictionSettings
from mesh.instance.settings.fields import SettingDescription, SettingError, settings_of
from mesh.instance.settings.instance import Settings, describe
from mesh.instance.settings.lifecycle import LifecycleSettings
from mesh.instance.settings.metrics import InfoMetric, MetricsOptions, MetricsSettings
from mesh.instance.settings.payloads import PayloadSettings
from mesh.instance.settings.placement import PlacementSettings
from mesh.instance.settings.recording import RecordingSettings
from mesh.instance.settings.registrations import RegistrationSettings
from mesh.instance.settings.request_log import RequestLogSettings
from mesh.instance.settings.tracing import TracingSettings
from mesh.instance.settings.upkeep import UpkeepSettings
from mesh.instance.settings.vmodels import VModelSettings

__all__ = [
    "CopySettings",
    "EvictionSettings",
    "InfoMetric",
    "LifecycleSettings",
    "MetricsOptions",
    "MetricsSettings",
    "PayloadSettings",
    "PlacementSettings",
    "RecordingSettings",
    "RegistrationSettings",
    "RequestLogSettings",
    "SettingDescription",
    "SettingError",
    "Settings",
    "TracingSettings",
    "UpkeepSettings",
    "VModelSettings",
    "describe",
    "settings_of",
]
