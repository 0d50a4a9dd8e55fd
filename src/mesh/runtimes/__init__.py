"""Model servers as the mesh drives them: the interface, and the client of custom runtimes."""

from mesh.runtimes.connection import OpenChannel, open_channel
from mesh.runtimes.endpoints import RuntimeEndpoints
from mesh.runtimes.interface import (
    LoadedModel,
    ModelInfo,
    ModelRuntime,
    PullProgress,
    RuntimeEvent,
    RuntimeFailure,
    RuntimeLost,
    RuntimeParameters,
    RuntimeReturned,
)
from mesh.runtimes.rules import LOST_MODEL_RULES
from mesh.runtimes.spi import SpiRuntime, SpiTimings

__all__ = [
    "LOST_MODEL_RULES",
    "LoadedModel",
    "ModelInfo",
    "ModelRuntime",
    "OpenChannel",
    "PullProgress",
    "RuntimeEndpoints",
    "RuntimeEvent",
    "RuntimeFailure",
    "RuntimeLost",
    "RuntimeParameters",
    "RuntimeReturned",
    "SpiRuntime",
    "SpiTimings",
    "open_channel",
]
