"""Triton's ``onnxruntime`` backend for the tests, as a backend written in Python.

The distribution on PyPI has the server and its Python backend only. Like the original, this one serves
``model.onnx`` with or without a ``config.pbtxt``; unlike it, it never turns on batching by itself.
"""

from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import triton_python_backend_utils as pb_utils

_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


class TritonPythonModel:
    """One instance of one model; Triton looks the class up by this name."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Adds the tensors that the configuration leaves out."""
        # The one place where a backend in Python can learn the model's file before it is initialized is the
        # command line of its process.
        path = Path(Path("/proc/self/cmdline").read_text().split("\0")[1])
        session = _session(path)
        known = config.as_dict()
        if not known["input"]:
            for tensor in session.get_inputs():
                config.add_input(_described(tensor))
        if not known["output"]:
            for tensor in session.get_outputs():
                config.add_output(_described(tensor))
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model."""
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        self._session = _session(path)
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request; Triton answers with what is raised."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        wanted = [name for name in self._outputs if name in request.requested_output_names()]
        inputs = {
            name: _from_triton(pb_utils.get_input_tensor_by_name(request, name).as_numpy())
            for name in self._inputs
        }
        results = self._session.run(wanted, inputs)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, result) for name, result in zip(wanted, results, strict=True)]
        )


def _session(path: Path) -> Any:
    if path.is_dir():
        path = path / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _described(tensor: Any) -> dict[str, Any]:
    dims = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return {"name": tensor.name, "data_type": _TYPES[tensor.type], "dims": dims}


def _from_triton(array: Any) -> Any:
    if array.dtype == numpy.object_:
        return numpy.vectorize(bytes.decode, otypes=[numpy.object_])(array)
    return array
