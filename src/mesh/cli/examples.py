"""Trains the example models of ``mesh up`` from the data sets that scikit-learn brings along.

``python -m mesh.cli.examples DIRECTORY`` writes one folder for each model, ``DIRECTORY/<model id>/``, with
the model in its library's own format and a ``sample.json``: rows that the model never saw in training, their
true labels, and how to read the answer. Training is deterministic, takes seconds on one core and needs no
download.

The forests are made large on purpose: each takes most of an instance's memory in a default ``mesh up``, and
together the models do not fit, which is what a mesh is for.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: Written when every model is in place; tells what made them.
STAMP = ".made-by.json"
#: What must be installed for the examples of a model type, besides scikit-learn.
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "sklearn": ("joblib",),
    "onnx": ("skl2onnx", "onnxruntime"),
    "xgboost": ("xgboost",),
    "lightgbm": ("lightgbm",),
}
#: Packages that bring a library under another name than its own.
_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "xgboost": ("xgboost", "xgboost-cpu"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}
#: Rows of held-out data in a ``sample.json``.
SAMPLES = 5


class ExamplesUnavailableError(Exception):
    """The examples cannot be trained here. The message tells what to install."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question with data to learn it from. ``rows`` is a float32 matrix, ``classes`` indexes ``labels``."""

    question: str
    rows: Any
    classes: Any
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One example model.

    Attributes:
        model_id: also the name of its folder.
        model_type: of the runtime that serves it; a key of `LIBRARIES`.
        task: gives the question and the data.
        classifier: makes the untrained model, of scikit-learn's interface.
    """

    model_id: str
    model_type: str
    task: Callable[[], Task]
    classifier: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """What training one example gave; `main` prints one JSON object of it a line.

    Attributes:
        accuracy: share of held-out rows that the model labels rightly, 0 to 1.
        size_bytes: of the model's file.
        seconds: wall time of training and writing.
    """

    model_id: str
    model_type: str
    accuracy: float
    size_bytes: int
    seconds: float


def _digits() -> Task:
    rows, classes = _drawn_digits()
    return Task("Which digit is drawn?", rows, classes, tuple("0123456789"))


def _digit_parity() -> Task:
    rows, classes = _drawn_digits()
    return Task("Is the drawn digit even or odd?", rows, classes % 2, ("even", "odd"))


def _digit_halves() -> Task:
    rows, classes = _drawn_digits()
    return Task("Is the drawn digit below five?", rows, classes // 5, ("below five", "five or more"))


def _digit_loops() -> Task:
    rows, classes = _drawn_digits()
    looped = sum(classes == digit for digit in (0, 6, 8, 9))
    return Task("Does the drawn digit enclose a space?", rows, looped, ("no", "yes"))


def _drawn_digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    rows, classes = load_digits(return_X_y=True)
    return rows.astype("float32"), classes


def _wine() -> Task:
    from sklearn.datasets import load_wine

    rows, classes = load_wine(return_X_y=True)
    labels = ("grower 0", "grower 1", "grower 2")
    return Task("Which of three growers made this wine?", rows.astype("float32"), classes, labels)


def _tumour() -> Task:
    from sklearn.datasets import load_breast_cancer

    rows, classes = load_breast_cancer(return_X_y=True)
    return Task(
        "Is the tumour malignant or benign?", rows.astype("float32"), classes, ("malignant", "benign")
    )


def _forest(trees: int) -> Callable[[], Any]:
    def make() -> Any:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(trees, random_state=0)

    return make


def _extra_trees(trees: int) -> Callable[[], Any]:
    def make() -> Any:
        from sklearn.ensemble import ExtraTreesClassifier

        return ExtraTreesClassifier(trees, random_state=0)

    return make


def _support_vectors() -> Any:
    from sklearn.svm import SVC

    return SVC(random_state=0)


def _network(hidden_units: int) -> Callable[[], Any]:
    def make() -> Any:
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        network = MLPClassifier((hidden_units,), max_iter=40, early_stopping=True, random_state=0)
        return make_pipeline(StandardScaler(), network)

    return make


def _boosted_xgboost(rounds: int) -> Callable[[], Any]:
    def make() -> Any:
        from xgboost import XGBClassifier

        return XGBClassifier(n_estimators=rounds, max_depth=4, random_state=0, n_jobs=1)

    return make


def _boosted_lightgbm(rounds: int) -> Callable[[], Any]:
    def make() -> Any:
        from lightgbm import LGBMClassifier

        return LGBMClassifier(
            n_estimators=rounds,
            num_leaves=15,
            random_state=0,
            n_jobs=1,
            deterministic=True,
            force_row_wise=True,
            verbose=-1,
        )

    return make


EXAMPLES: tuple[Example, ...] = (
    Example("digits-forest", "sklearn", _digits, _forest(170)),
    Example("digits-extra-trees", "sklearn", _digits, _extra_trees(80)),
    Example("digits-parity", "sklearn", _digit_parity, _extra_trees(240)),
    Example("digits-halves", "sklearn", _digit_halves, _extra_trees(210)),
    Example("digits-loops", "sklearn", _digit_loops, _extra_trees(210)),
    Example("digits-svm", "sklearn", _digits, _support_vectors),
    Example("digits-trees-onnx", "onnx", _digits, _extra_trees(30)),
    Example("digits-network", "onnx", _digits, _network(512)),
    Example("digits-xgboost", "xgboost", _digits, _boosted_xgboost(40)),
    Example("digits-lightgbm", "lightgbm", _digits, _boosted_lightgbm(40)),
    Example("wine-forest", "sklearn", _wine, _forest(200)),
    Example("wine-network", "onnx", _wine, _network(64)),
    Example("wine-xgboost", "xgboost", _wine, _boosted_xgboost(40)),
    Example("tumour-forest", "sklearn", _tumour, _forest(200)),
    Example("tumour-xgboost", "xgboost", _tumour, _boosted_xgboost(40)),
    Example("tumour-lightgbm", "lightgbm", _tumour, _boosted_lightgbm(40)),
)


def is_current(directory: Path) -> bool:
    """Tells whether ``directory`` holds what `train_all` would make with the libraries installed now."""
    try:
        return bool(json.loads((directory / STAMP).read_text(encoding="utf-8")) == _made_by())
    except (OSError, ValueError):
        return False


def missing_libraries() -> dict[str, str]:
    """Model types whose examples cannot be trained here, each with the first library that it lacks."""
    return {
        model_type: next(name for name in libraries if not _version_of(name))
        for model_type, libraries in LIBRARIES.items()
        if not all(_version_of(name) for name in libraries)
    }


def train_all(directory: Path) -> Iterator[Trained]:
    """Trains every example whose libraries are installed, and marks ``directory`` as current at the end.

    Anything that was in ``directory`` is replaced.

    Raises:
        ExamplesUnavailableError: scikit-learn is not installed.
        OSError: ``directory`` cannot be written.
    """
    if not _version_of("scikit-learn"):
        raise ExamplesUnavailableError(
            "the example models are trained with scikit-learn, which is not installed: "
            "pip install 'model-mesh[examples]', or name a directory of your own models with --models"
        )
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    missing = missing_libraries()
    for example in EXAMPLES:
        if example.model_type not in missing:
            yield _train(example, directory / example.model_id)
    (directory / STAMP).write_text(json.dumps(_made_by(), indent=1), encoding="utf-8")


def _train(example: Example, folder: Path) -> Trained:
    from sklearn.model_selection import train_test_split

    started = time.monotonic()
    folder.mkdir()
    task = example.task()
    rows, held_out, classes, truth = train_test_split(
        task.rows, task.classes, test_size=0.25, random_state=0, stratify=task.classes
    )
    classifier = example.classifier()
    classifier.fit(rows, classes)
    _WRITERS[example.model_type](classifier, rows.shape[1], folder)
    size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    right = classifier.predict(held_out) == truth
    sample = _sample(task, held_out[right][:SAMPLES], truth[right][:SAMPLES])
    (folder / "sample.json").write_text(json.dumps(sample, indent=1), encoding="utf-8")
    seconds = time.monotonic() - started
    return Trained(example.model_id, example.model_type, float(right.mean()), size_bytes, seconds)


def _write_joblib(classifier: Any, _features: int, folder: Path) -> None:
    import joblib

    joblib.dump(classifier, folder / "model.joblib")


def _write_onnx(classifier: Any, features: int, folder: Path) -> None:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    # Without zipmap the scores are a tensor instead of a list of dictionaries.
    model = to_onnx(
        classifier,
        initial_types=[("input", FloatTensorType([None, features]))],
        options={"zipmap": False},
    )
    # The converter lists these in the order of a set.
    model.opset_import.sort(key=lambda opset: opset.domain)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _write_xgboost(classifier: Any, _features: int, folder: Path) -> None:
    classifier.save_model(folder / "model.json")


def _write_lightgbm(classifier: Any, _features: int, folder: Path) -> None:
    classifier.booster_.save_model(folder / "model.txt")


_WRITERS: Mapping[str, Callable[[Any, int, Path], None]] = {
    "sklearn": _write_joblib,
    "onnx": _write_onnx,
    "xgboost": _write_xgboost,
    "lightgbm": _write_lightgbm,
}


def _sample(task: Task, rows: Any, truth: Any) -> dict[str, Any]:
    """Only rows that the trained model labels rightly, so that a wrong answer is a fault of the serving."""
    return {
        "question": task.question,
        "labels": list(task.labels),
        "samples": [
            {
                "truth": task.labels[int(label)],
                "inputs": [
                    {"name": "input", "datatype": "FP32", "shape": [1, len(row)], "data": row.tolist()}
                ],
            }
            for row, label in zip(rows, truth, strict=True)
        ],
    }


def _made_by() -> dict[str, str | None]:
    libraries = {"scikit-learn", *(name for names in LIBRARIES.values() for name in names)}
    source = sha256(Path(__file__).read_bytes()).hexdigest()
    return {"recipes": source, **{name: _version_of(name) for name in sorted(libraries)}}


def _version_of(library: str) -> str | None:
    for distribution in _DISTRIBUTIONS.get(library, (library,)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def main(arguments: list[str]) -> int:
    """Trains into the directory that the only argument names; one JSON line for each model.

    Returns: 0, or 2 where the examples cannot be trained here, with the reason on standard error.
    """
    # More threads than cores only wait for each other in models as small as these.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    try:
        for trained in train_all(Path(arguments[0])):
            sys.stdout.write(json.dumps(asdict(trained)) + "\n")
            sys.stdout.flush()
    except ExamplesUnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
