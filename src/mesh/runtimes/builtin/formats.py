"""The formats that the built-in runtime knows, and how to tell which one a model is."""

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import grpc

from mesh.runtimes.interface import ModelInfo, RuntimeFailure

if TYPE_CHECKING:
    from mesh.runtimes.python.model import InferRequest, ModelMetadata
    from mesh.tensors import Array


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        name: model type and extra of the package.
        title: for people.
        suffixes: of its files.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]


class Servable(ABC):
    """A model of some format, in memory."""

    @abstractmethod
    def metadata(self) -> "ModelMetadata":
        """Tells what the model takes and gives."""

    @abstractmethod
    def infer(self, inputs: "dict[str, Array]", request: "InferRequest") -> "Mapping[str, Array]":
        """Asks the model."""


class FormatModule(Protocol):
    """What the module of a format has. Importing it imports the format's library."""

    def warm_up(self, threads: int) -> None:
        """Makes what the library makes once, so that it is not measured with the first model."""

    def load(self, file: Path, threads: int) -> Servable:
        """Loads a model that uses so many threads for one request."""


FORMATS = {
    form.name: form
    for form in (
        Format("onnx", "ONNX", (".onnx",)),
        Format("sklearn", "scikit-learn", (".joblib", ".pkl", ".pickle")),
        Format("xgboost", "XGBoost", (".json", ".ubj", ".bst", ".xgb")),
        Format("lightgbm", "LightGBM", (".txt", ".bst", ".lgb")),
    )
}

_IGNORED = frozenset({"model-settings.json", "settings.json", "_schema.json", "schema.json"})
"""Files beside a model that are meant for other servers or for the mesh."""


def import_format(form: Format) -> FormatModule:
    """Imports the module of a format.

    Raises:
        RuntimeFailure: FAILED_PRECONDITION, its library is not installed.
    """
    try:
        return cast("FormatModule", importlib.import_module(f"mesh.runtimes.builtin.{form.name}_format"))
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("mesh."):
            raise
        raise RuntimeFailure(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"{form.title} models need the Python package {error.name!r}, which is not installed here:"
            f" pip install 'model-mesh[{form.name}]'",
        ) from error


def locate(model: ModelInfo) -> tuple[Format, Path]:
    """Finds out which format a model is, and which file.

    The format is the model's type, told in its key or beside it, up to the first ``:``; without one, what the file is
    taken for. In a directory the one file that can be meant counts; of directories that are all numbers, the highest.

    Raises:
        RuntimeFailure: the type is unknown, or there is no file or more than one.
    """
    told = model_type(model)
    if told and told not in FORMATS:
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"model type {told!r} is unknown to this runtime; it serves {', '.join(FORMATS)}",
        )
    file = _file(Path(model.path), FORMATS.get(told))
    if told:
        return FORMATS[told], file
    guessed = guess(file)
    if guessed is None:
        raise _refused(
            f"{file} is not recognised; name its format as the model's type: one of {', '.join(FORMATS)}"
        )
    return guessed, file


def model_type(model: ModelInfo) -> str:
    """Returns: the type of a model in lower case, empty where none is told.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT, the key is not a JSON object.
    """
    told: object = None
    if model.key.strip():
        try:
            key = json.loads(model.key)
        except ValueError as error:
            raise _refused(f"the model's key {model.key!r} is not JSON: {error}") from error
        if not isinstance(key, dict):
            raise _refused(f"the model's key {model.key!r} must be a JSON object")
        told = key.get("model_type")
        if isinstance(told, dict):
            told = told.get("name")
    return (told if isinstance(told, str) and told else model.model_type).partition(":")[0].strip().lower()


def guess(file: Path) -> Format | None:
    """Takes a file for one of the formats by its name, or by its first bytes where formats share a suffix."""
    suffix = file.suffix.lower()
    fitting = [form for form in FORMATS.values() if suffix in form.suffixes]
    if len(fitting) > 1 or suffix in (".txt", ".json"):
        with file.open("rb") as stream:
            head = stream.read(4096).lstrip()
        if head.startswith(b"tree"):
            return FORMATS["lightgbm"]
        if head.startswith(b"{"):
            return FORMATS["xgboost"]
        return None
    return fitting[0] if fitting else None


def _file(path: Path, told: Format | None) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise RuntimeFailure(
            grpc.StatusCode.FAILED_PRECONDITION, f"there is no file or directory {str(path)!r}"
        )
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    versions = [entry for entry in entries if entry.is_dir()]
    files = [entry for entry in entries if entry.is_file() and entry.name not in _IGNORED]
    if versions and not files and all(entry.name.isdecimal() for entry in versions):
        return _file(max(versions, key=lambda entry: int(entry.name)), told)
    forms = FORMATS.values() if told is None else (told,)
    suffixes = tuple(dict.fromkeys(suffix for form in forms for suffix in form.suffixes))
    fitting = [file for file in files if file.suffix.lower() in suffixes]
    if not fitting and len(files) == 1 and told is not None:
        return files[0]
    if len(fitting) != 1:
        found = ", ".join(entry.name for entry in fitting or entries) or "nothing"
        wanted = f"one {told.title} file" if told else "one model file"
        raise _refused(f"{path} must hold {wanted} ({', '.join(suffixes)}); it holds {found}")
    return fitting[0]


def _refused(message: str) -> RuntimeFailure:
    return RuntimeFailure(grpc.StatusCode.INVALID_ARGUMENT, message)
