"""LightGBM models, in its text format."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import lightgbm
import numpy as np

from mesh.runtimes.builtin.formats import Servable
from mesh.runtimes.builtin.matrix import INPUT, read_matrix
from mesh.runtimes.python.model import InferRequest, ModelMetadata, TensorSpec
from mesh.tensors import Array

_log = logging.getLogger(__name__)

_SIZES = re.compile(r"^tree_sizes=(.*)\n", re.MULTILINE)
"""Where this line is missing, as in models of old releases, trees are read one after another."""


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
    """Has trees read one after another: what is wrong in one that is read in parallel ends the process."""
    text = file.read_text()
    _check_layout(text)
    return _LightGBMModel(lightgbm.Booster(model_str=_SIZES.sub("", text, count=1)), threads)


def _check_layout(text: str) -> None:
    """Compares the number of trees in the header with the trees that are there: the library takes fewer.

    Raises:
        ValueError: they differ, or there is no header.
    """
    if not text.startswith("tree\n"):
        raise ValueError("its first line is not 'tree'")
    sizes = _SIZES.search(text)
    if sizes is None:
        return
    told = len(sizes[1].split())
    trees, end, _ = text.partition("\nend of trees")
    found = trees.count("\nTree=")
    if found != told or not end:
        raise ValueError(
            f"it has {found} of the {told} trees that its header tells{'' if end else ', and no end'}"
        )
