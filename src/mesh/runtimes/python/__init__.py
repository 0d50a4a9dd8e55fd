"""A model server in ten lines of Python.

Say how to load a model and how to ask it; the rest is done: the SPI towards the mesh, the Open Inference
Protocol towards clients, threads, memory sizes, errors that name what was wrong, and a command line.
"""

from typing import TYPE_CHECKING, Any

from mesh.runtimes.interface import ModelInfo, RuntimeFailure
from mesh.runtimes.python.model import InferRequest, InvalidInput, ModelMetadata, PythonRuntime, TensorSpec
from mesh.runtimes.python.spi_service import Capacity

if TYPE_CHECKING:
    from mesh.runtimes.python.server import RuntimeServer, ServerOptions

__all__ = [
    "Capacity",
    "InferRequest",
    "InvalidInput",
    "ModelInfo",
    "ModelMetadata",
    "PythonRuntime",
    "RuntimeFailure",
    "RuntimeServer",
    "ServerOptions",
    "TensorSpec",
]


def __getattr__(name: str) -> Any:
    # The server needs numpy, and numerical libraries read their thread settings when they are loaded: a command line
    # has to be read before that.
    if name in ("RuntimeServer", "ServerOptions"):
        from mesh.runtimes.python import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
