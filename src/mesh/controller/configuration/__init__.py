"""The controller's configuration, as a user's ConfigMap has it."""

from mesh.controller.configuration.reading import InvalidConfiguration, read_configuration
from mesh.controller.configuration.values import Configuration, Image, Metrics, Resources, RestProxy, Tls

__all__ = [
    "Configuration",
    "Image",
    "InvalidConfiguration",
    "Metrics",
    "Resources",
    "RestProxy",
    "Tls",
    "read_configuration",
]
