"""ONNX models, by onnxruntime on the CPU."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from mesh.runtimes.builtin.formats import Servable
from mesh.runtimes.python.model import InferRequest, InvalidInput, ModelMetadata, TensorSpec
from mesh.tensors import Array

_log = logging.getLogger(__name__)

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

# A model of one Identity node, in protobuf: IR version 8, opset 13, x [1] FP32 to y [1] FP32.
_IDENTITY = bytes.fromhex(
    "08083a33"
    "0a100a0178120179220849"
    "64656e74697479"
    "1201675a0f0a0178120a0a08080112040a02080162"
    "0b0a0179120612040a0208014204"
    "0a00100d"
)


class _OnnxModel(Servable):
    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._inputs = [_spec(argument) for argument in session.get_inputs()]
        arguments = session.get_outputs()
        self._outputs = [_spec(argument) for argument in arguments if argument.type in _DATATYPES]
        for argument in arguments:
            if argument.type not in _DATATYPES:
                _log.warning("output %s is a %s and cannot be served", argument.name, argument.type)

    def metadata(self) -> ModelMetadata:
        return ModelMetadata("onnx_onnxv1", self._inputs, self._outputs)

    def infer(self, inputs: dict[str, Array], request: InferRequest) -> Mapping[str, Array]:
        known = [spec.name for spec in self._outputs]
        wanted = list(request.outputs) or known
        for name in wanted:
            if name not in known:
                raise InvalidInput(f"output {name!r} is unknown; the model gives {', '.join(known)}")
        feed = {name: _text(array) if array.dtype == object else array for name, array in inputs.items()}
        return dict(zip(wanted, self._session.run(wanted, feed), strict=True))


def warm_up(threads: int) -> None:
    """Registers the kernels, a megabyte or two."""
    ort.set_default_logger_severity(3)
    ort.InferenceSession(_IDENTITY, _options(threads), providers=["CPUExecutionProvider"])


def load(file: Path, threads: int) -> Servable:
    """Loads by path, so that weights in files beside it are found."""
    return _OnnxModel(ort.InferenceSession(str(file), _options(threads), providers=["CPUExecutionProvider"]))


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # An arena keeps what the largest request ever took, for each of thousands of models.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    return options


def _spec(argument: Any) -> TensorSpec:
    # A dimension without a fixed length is a name, or nothing.
    shape = tuple(length if isinstance(length, int) else -1 for length in argument.shape or ())
    return TensorSpec(argument.name, _DATATYPES.get(argument.type, argument.type), shape)


def _text(array: Array) -> Array:
    try:
        decoded = [element.decode() for element in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"an element of a BYTES input is not UTF-8, as ONNX wants: {error}") from error
    return np.array(decoded, object).reshape(array.shape)
