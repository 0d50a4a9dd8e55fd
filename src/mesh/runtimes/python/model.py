"""What a runtime written in Python implements."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from mesh.runtimes.interface import ModelInfo

if TYPE_CHECKING:
    from mesh.tensors import Array

Model = TypeVar("Model")
Parameter = bool | int | float | str


class InvalidInput(ValueError):
    """The caller's inputs cannot be: the request ends as INVALID_ARGUMENT with this text."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: as requests write it.
        datatype: of the Open Inference Protocol, such as ``FP32``.
        shape: lengths, -1 for any.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What ``ModelMetadata`` tells of a model.

    Attributes:
        platform: such as ``onnx_onnxv1``.
        inputs: empty where not known.
        outputs: empty where not known.
        check_inputs: requests whose inputs differ from ``inputs`` are refused before the model sees them.
    """

    platform: str = ""
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    check_inputs: bool = True


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a request says beside its inputs.

    Attributes:
        model_id: of the model that is asked.
        parameters: by name.
        outputs: names of the outputs that are asked for; empty for all. Others that are given are not sent.
        trace: ``traceparent`` and ``tracestate`` of W3C Trace Context, as far as they came with the request; what
            OpenTelemetry's propagators take as a carrier.
    """

    model_id: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    trace: Mapping[str, str] = field(default_factory=dict)


class PythonRuntime(ABC, Generic[Model]):
    """A model server in Python: say how to load a model and how to ask it; the rest is done.

    ``Model`` is whatever `load` returns. All methods run in worker threads: `infer` of one model in several
    at once, `load` and `unload` in threads of their own. An exception fails the one call with its text and
    nothing else: `InvalidInput` as INVALID_ARGUMENT, `mesh.runtimes.RuntimeFailure` with its own code, any
    other as INTERNAL.
    """

    name: ClassVar[str] = "python"
    """Of the server, in its metadata."""

    version: ClassVar[str] = ""
    """Of the server, for people."""

    def prepare(self, model: ModelInfo) -> None:
        """Imports what models share, so that it is not measured as the memory of the first one."""

    @abstractmethod
    def load(self, model: ModelInfo) -> Model:
        """Loads a model. If the caller gives up meanwhile, the result is unloaded again."""

    @abstractmethod
    def infer(self, model: Model, inputs: "dict[str, Array]", request: InferRequest) -> "Mapping[str, Array]":
        """Asks a model.

        Args:
            model: what `load` returned.
            inputs: arrays by name; they may be read-only. BYTES are arrays of ``bytes``, BF16 is float32.
            request: what else was said.

        Returns: outputs by name. Arrays of ``str`` or ``bytes`` are sent as BYTES.
        """

    def unload(self, model: Model) -> None:
        """Gives up what the garbage collector does not; no request is running on the model."""

    def size(self, model: Model) -> int:
        """Tells bytes of memory that a loaded model takes. Where this is not defined, it is measured.

        Measuring works on one load at a time; defining it lets loads run side by side.
        """
        raise NotImplementedError

    def predict_size(self, model: ModelInfo) -> int | None:
        """Estimates bytes of memory before a load, at once; None where it cannot be told."""
        return None

    def metadata(self, model: Model) -> ModelMetadata:
        """Tells what a model takes and gives. Called once after each load."""
        return ModelMetadata()

    def serve(self, arguments: Sequence[str] | None = None) -> None:
        """Serves with options from the command line (see ``--help``) until it is told to stop."""
        from mesh.runtimes.python.command import run

        run(self, arguments)

    @property
    def measured(self) -> bool:
        """`size` is not defined, so sizes are measured."""
        return type(self).size is PythonRuntime.size


AnyRuntime = PythonRuntime[Any]
