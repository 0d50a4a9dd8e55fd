"""Adapters: runtimes that speak a model server's own management API."""

from mesh.runtimes.adapters.mlserver import MLServerRuntime
from mesh.runtimes.adapters.ovms import OvmsRuntime
from mesh.runtimes.adapters.ovms_settings import OvmsSettings
from mesh.runtimes.adapters.settings import AdapterSettings
from mesh.runtimes.adapters.torchserve import TorchServeRuntime
from mesh.runtimes.adapters.torchserve_settings import TorchServeSettings
from mesh.runtimes.adapters.triton import TritonRuntime

__all__ = [
    "AdapterSettings",
    "MLServerRuntime",
    "OvmsRuntime",
    "OvmsSettings",
    "TorchServeRuntime",
    "TorchServeSettings",
    "TritonRuntime",
]
