"""The built-in runtime, made with the base class that custom runtimes have."""

import logging
import os
import threading
from collections.abc import Mapping

import grpc

from mesh.runtimes.builtin.formats import FORMATS, Format, Servable, import_format, locate
from mesh.runtimes.interface import ModelInfo, RuntimeFailure
from mesh.runtimes.python.model import InferRequest, ModelMetadata, PythonRuntime
from mesh.tensors import Array

_log = logging.getLogger(__name__)

_WARM_UP_NICENESS = 10


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

    def warm_up_soon(self) -> None:
        """Imports the libraries of all formats that are installed, in the background and after all else."""
        threading.Thread(target=self._warm_all, name="warm-up", daemon=True).start()

    def _warm_all(self) -> None:
        # Linux counts niceness by thread: requests go before it.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _WARM_UP_NICENESS)
        for form in FORMATS.values():
            try:
                self._warm_up(form)
            except RuntimeFailure as failure:
                _log.info("not warmed up: %s", failure)

    def prepare(self, model: ModelInfo) -> None:
        """Imports the library of the model's format."""
        self._warm_up(locate(model)[0])

    def _warm_up(self, form: Format) -> None:
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
    text, _, trace = str(error).partition("Stack trace:")
    lines = text.strip().splitlines() or ["no reason told"]
    # XGBoost begins with the reason and goes on with the place in the file and in its own code.
    reason = lines[0] if trace else lines[-1]
    return RuntimeFailure(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"{file} is not a readable {form.title} model: {type(error).__name__}: {reason}",
    )
