"""LightGBM models, in its text format."""

import logging
from collections.abc import Mapping
from pathlib import Path

import lightgbm
import numpy as np

from mesh.runtimes.builtin.formats import Servable
from mesh.runtimes.builtin.matrix import INPUT, read_matrix
from mesh.runtimes.python.datatypes import Array
from mesh.runtimes.python.model import InferRequest, ModelMetadata, TensorSpec

_log = logging.getLogger(__name__)


class _LightGBMModel(Servable):
    def __init__(self, booster: lightgbm.Booster, threads: int) -> None:
        self._booster = booster
        self._threads = threads
        self._features = int(booster.num_feature())

    def metadata(self) -> ModelMetadata:
        classes = int(self._booster.num_model_per_iteration())
        return ModelMetadata(
            platform="lightgbm",
            inputs=[TensorSpec(INPUT, "FP32", (-1, self._features))],
            outputs=[TensorSpec(INPUT, "FP64", (-1,) if classes == 1 else (-1, classes))],
            check_inputs=False,
        )

    def infer(self, inputs: dict[str, Array], request: InferRequest) -> Mapping[str, Array]:
        matrix = read_matrix(inputs, self._features)
        return {INPUT: np.asarray(self._booster.predict(matrix, num_threads=self._threads))}


def warm_up(threads: int) -> None:
    """Sends what the library says to the log; it would print."""
    lightgbm.register_logger(_log)


def load(file: Path, threads: int) -> Servable:
    """Checks the first line: the library takes other text for a model without trees."""
    with file.open("rb") as stream:
        if not stream.read(64).lstrip().startswith(b"tree"):
            raise ValueError("its first line is not 'tree'")
    return _LightGBMModel(lightgbm.Booster(model_file=str(file)), threads)
