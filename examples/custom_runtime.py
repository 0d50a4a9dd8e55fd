"""A runtime for a format of one's own: python examples/custom_runtime.py --port 8085 --capacity 64MiB"""

import json
from pathlib import Path

from mesh.runtimes.python import PythonRuntime


class Linear(PythonRuntime):
    """Serves ``{"weights": [...], "bias": ...}``."""

    def load(self, model):
        return json.loads(Path(model.path).read_text())

    def infer(self, model, inputs, request):
        return {"y": inputs["x"] @ model["weights"] + model["bias"]}


if __name__ == "__main__":
    Linear().serve()
