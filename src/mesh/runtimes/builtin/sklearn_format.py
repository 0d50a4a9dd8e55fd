"""scikit-learn models, pickled by joblib or pickle.

Loading a pickle runs whatever code its maker has put into it: serve only files of people whom you would let run
programs here.
"""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import sklearn.exceptions

from mesh.runtimes.builtin.formats import Servable
from mesh.runtimes.builtin.matrix import INPUT, read_matrix
from mesh.runtimes.python.model import InferRequest, InvalidInput, ModelMetadata, TensorSpec
from mesh.tensors import Array

_log = logging.getLogger(__name__)

_METHODS = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "transform",
    "score_samples",
)
"""Methods that can be asked for as outputs; the first that a model has is the answer to who asks for none."""


class _SklearnModel(Servable):
    def __init__(self, estimator: Any) -> None:
        self._methods = [name for name in _METHODS if callable(getattr(estimator, name, None))]
        if not self._methods:
            raise ValueError(
                f"a {type(estimator).__name__} is no estimator: it has none of {', '.join(_METHODS)}"
            )
        self._estimator = estimator
        features = getattr(estimator, "n_features_in_", None)
        self._features = int(features) if features is not None else None

    def metadata(self) -> ModelMetadata:
        shape = (-1, -1 if self._features is None else self._features)
        return ModelMetadata(
            platform="sklearn",
            inputs=[TensorSpec(INPUT, "FP32", shape)],
            outputs=self._outputs(),
            check_inputs=False,
        )

    def infer(self, inputs: dict[str, Array], request: InferRequest) -> Mapping[str, Array]:
        wanted = request.outputs or self._methods[:1]
        for name in wanted:
            if name not in self._methods:
                raise InvalidInput(f"output {name!r} is unknown; the model gives {', '.join(self._methods)}")
        matrix = read_matrix(inputs, self._features)
        return {name: _dense(getattr(self._estimator, name)(matrix)) for name in wanted}

    def _outputs(self) -> list[TensorSpec]:
        classes = getattr(self._estimator, "classes_", None)
        if self._methods[0] != "predict" or not isinstance(classes, np.ndarray) or classes.ndim != 1:
            return []
        if classes.dtype.kind in "OSU":
            return [TensorSpec(INPUT, "BYTES", (-1,))]
        return [TensorSpec(INPUT, "INT64", (-1,))] if classes.dtype == np.int64 else []


def warm_up(threads: int) -> None:
    """Nothing: importing is all."""


def load(file: Path, threads: int) -> Servable:
    """Threads are limited by the environment that the process was started with."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", sklearn.exceptions.InconsistentVersionWarning)
        model = _SklearnModel(joblib.load(file))
    for message in {str(warning.message).partition(". ")[0] for warning in caught}:
        _log.warning("%s: %s", file, message)
    return model


def _dense(result: Any) -> Array:
    return np.asarray(result.toarray() if hasattr(result, "toarray") else result)
