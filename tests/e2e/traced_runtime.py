"""A model server that tells which trace context it got with a request."""

from collections.abc import Mapping

import numpy

from mesh.runtimes import ModelInfo
from mesh.runtimes.python import InferRequest, PythonRuntime
from mesh.tensors import Array


class TracedRuntime(PythonRuntime[str]):
    name = "traced"

    def load(self, model: ModelInfo) -> str:
        return model.model_id

    def size(self, model: str) -> int:
        return 8_192

    def infer(self, model: str, inputs: dict[str, Array], request: InferRequest) -> Mapping[str, Array]:
        return {name: numpy.array([value]) for name, value in request.trace.items()}


if __name__ == "__main__":
    TracedRuntime().serve()
