"""XGBoost models, as JSON or UBJSON."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xgboost

from mesh.runtimes.builtin.formats import Servable
from mesh.runtimes.builtin.matrix import INPUT, read_matrix
from mesh.runtimes.python.model import InferRequest, ModelMetadata, TensorSpec
from mesh.tensors import Array


class _XGBoostModel(Servable):
    def __init__(self, booster: xgboost.Booster) -> None:
        self._booster = booster
        self._features = int(booster.num_features())

    def metadata(self) -> ModelMetadata:
        return ModelMetadata(
            platform="xgboost",
            inputs=[TensorSpec(INPUT, "FP32", (-1, self._features))],
            outputs=[TensorSpec(INPUT, "FP32", (-1,))],
            check_inputs=False,
        )

    def infer(self, inputs: dict[str, Array], request: InferRequest) -> Mapping[str, Array]:
        matrix = read_matrix(inputs, self._features)
        # Unlike predict, this takes no lock and copies nothing.
        return {
            INPUT: self._booster.inplace_predict(np.ascontiguousarray(matrix, "<f4"), validate_features=False)
        }


def warm_up(threads: int) -> None:
    """Makes the library's global state."""
    xgboost.Booster({"nthread": threads})


def load(file: Path, threads: int) -> Servable:
    """Loads by path where the suffix tells the encoding, which takes less memory than by content."""
    # The verbosity is the thread's own, and each load has a thread of its own.
    with xgboost.config_context(verbosity=0):
        booster = xgboost.Booster({"nthread": threads})
        booster.load_model(str(file) if file.suffix in (".json", ".ubj") else bytearray(file.read_bytes()))
    return _XGBoostModel(booster)
