"""Pulls a model's data before a model server loads it: as a layer in the mesh's process, or as one of its own."""

from mesh.pulling.forwarding import ForwardingRuntime
from mesh.pulling.layer import PullingRuntime
from mesh.pulling.server import StandalonePuller
from mesh.pulling.settings import StandaloneSettings

__all__ = ["ForwardingRuntime", "PullingRuntime", "StandalonePuller", "StandaloneSettings"]
