"""LightGBM models, in its text format."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

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
    """Checks the layout first: given a file that was cut short, the library ends the process."""
    with file.open("rb") as stream:
        _check_layout(stream)
    return _LightGBMModel(lightgbm.Booster(model_file=str(file)), threads)


def _check_layout(stream: BinaryIO) -> None:
    """Compares the sizes of the trees, which the header tells, with where they are.

    Raises:
        ValueError: they differ, or there is no header.
    """
    if not stream.readline(64).startswith(b"tree"):
        raise ValueError("its first line is not 'tree'")
    sizes: list[int] | None = None
    while (line := stream.readline()) and not line.startswith(b"Tree="):
        if line.startswith(b"tree_sizes="):
            sizes = [int(size) for size in line.partition(b"=")[2].split()]
    if sizes is None:
        # The library reads models from before it wrote sizes in another, careful way.
        return
    offset = stream.tell() - len(line)
    for number, size in enumerate(sizes):
        stream.seek(offset)
        if stream.readline(32).strip() != b"Tree=%d" % number:
            raise ValueError(f"tree {number} of {len(sizes)} is not where its header says")
        offset += size
    stream.seek(offset)
    if sizes and stream.readline(32).strip() != b"end of trees":
        raise ValueError(f"it does not end after tree {len(sizes) - 1}, as its header says")
