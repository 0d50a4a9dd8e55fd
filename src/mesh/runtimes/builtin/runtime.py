"""The built-in runtime, made with the base class that custom runtimes have."""

import threading
from collections.abc import Mapping

import grpc

from mesh.runtimes.builtin.formats import Format, Servable, import_format, locate
from mesh.runtimes.interface import ModelInfo, RuntimeFailure
from mesh.runtimes.python.datatypes import Array
from mesh.runtimes.python.model import InferRequest, ModelMetadata, PythonRuntime


class BuiltinRuntime(PythonRuntime[Servable]):
    """Serves ONNX, scikit-learn, XGBoost and LightGBM models."""

    name = "mesh"
    version = "1"

    def __init__(self, threads_per_request: int = 1) -> None:
        """Loads nothing yet.

        Args:
            threads_per_request: that a library may use for one request; more only pay on idle cores.
        """
        self._threads = threads_per_request
        self._warm: set[str] = set()
        self._warming = threading.Lock()

    def prepare(self, model: ModelInfo) -> None:
        """Imports the library of the model's format."""
        form, _ = locate(model)
        with self._warming:
            if form.name not in self._warm:
                import_format(form).warm_up(self._threads)
                self._warm.add(form.name)

    def load(self, model: ModelInfo) -> Servable:
        """Refuses what its library cannot read as INVALID_ARGUMENT, naming file and format."""
        form, file = locate(model)
        module = import_format(form)
        try:
            return module.load(file, self._threads)
        except (MemoryError, RuntimeFailure):
            raise
        except ModuleNotFoundError as error:
            raise RuntimeFailure(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{file} needs the Python module {error.name!r}, which is not installed here",
            ) from error
        except Exception as error:
            raise _unreadable(form, str(file), error) from error

    def infer(self, model: Servable, inputs: dict[str, Array], request: InferRequest) -> Mapping[str, Array]:
        """Asks the library."""
        return model.infer(inputs, request)

    def metadata(self, model: Servable) -> ModelMetadata:
        """Tells what the library knows."""
        return model.metadata()


def _unreadable(form: Format, file: str, error: Exception) -> RuntimeFailure:
    lines = str(error).strip().splitlines() or ["no reason told"]
    return RuntimeFailure(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"{file} is not a readable {form.title} model: {type(error).__name__}: {lines[-1]}",
    )
