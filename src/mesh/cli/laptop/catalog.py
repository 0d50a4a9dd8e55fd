"""A directory of models: which models it holds, of what type, and where each one's data is.

``DIRECTORY/<model id>/`` holds one model, its files named as they like; ``DIRECTORY/<model id>.<ending>`` is
a model of one file. The type follows from the ending. ``mesh.json`` in a model's folder says what does not:
``{"type": "sklearn", "path": "model.joblib", "key": "{...}"}``, each member optional.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.cli import samples

OVERRIDES = "mesh.json"
#: Model types by the ending of their file.
TYPES: Mapping[str, str] = {
    ".joblib": "sklearn",
    ".pkl": "sklearn",
    ".pickle": "sklearn",
    ".onnx": "onnx",
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".bst": "xgboost",
    ".txt": "lightgbm",
}


class CatalogError(ValueError):
    """A directory of models cannot be used. The message names the folder or file and the remedy."""


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """One model of a directory.

    Attributes:
        model_id: name of its folder, or of its file without the ending.
        model_type: of the runtime.
        path: absolute path of the file or folder that the runtime loads.
        key: for the runtime; often empty.
        size_bytes: on disk.
        has_samples: whether ``mesh infer`` finds inputs beside it.
    """

    model_id: str
    model_type: str
    path: Path
    key: str
    size_bytes: int
    has_samples: bool


def read_catalog(directory: Path) -> list[CatalogModel]:
    """Finds the models of ``directory``, in order of their ids. Hidden and unknown files are passed over.

    Raises:
        CatalogError: the directory cannot be read or holds no model, or a folder's model cannot be told.
    """
    try:
        entries = sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise CatalogError(f"--models {directory}: {error.strerror}") from None
    models = []
    for entry in entries:
        if entry.is_dir():
            models.append(_from_folder(entry))
        elif entry.suffix in TYPES and not entry.name.endswith(f".{samples.FILE_NAME}"):
            models.append(_model(entry.stem, TYPES[entry.suffix], entry, ""))
    if not models:
        raise CatalogError(
            f"--models {directory}: there is no model in it; put each in a folder of its own, "
            f"{directory}/MODEL/, or as one file, {directory}/MODEL.onnx (endings: {', '.join(TYPES)})"
        )
    seen: dict[str, CatalogModel] = {}
    for model in models:
        if model.model_id in seen:
            raise CatalogError(
                f"--models {directory}: {seen[model.model_id].path} and {model.path} are both model "
                f"{model.model_id!r}: rename one of them"
            )
        seen[model.model_id] = model
    return sorted(models, key=lambda model: model.model_id)


def _from_folder(folder: Path) -> CatalogModel:
    overrides = _overrides(folder / OVERRIDES)
    told, key = overrides.get("type"), overrides.get("key", "")
    if "path" in overrides:
        path = folder / overrides["path"]
        if not path.exists():
            raise CatalogError(f"{folder / OVERRIDES}: path {overrides['path']!r} does not exist in {folder}")
        if told is None and path.suffix not in TYPES:
            raise CatalogError(
                f'{folder / OVERRIDES}: the type of {path.name} is not known; add "type": "..."'
            )
        return _model(folder.name, told or TYPES[path.suffix], path, key)
    fitting = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in TYPES and file.is_file() and file.name not in {OVERRIDES, samples.FILE_NAME}
    )
    if told is not None:
        # Only of types that are listed here is it known that one file is all that they load.
        one_file = told in TYPES.values() and len(fitting) == 1
        return _model(folder.name, told, fitting[0] if one_file else folder, key)
    if len(fitting) != 1:
        found = f"it holds {', '.join(file.name for file in fitting)}" if fitting else "no ending in it tells"
        raise CatalogError(
            f"{folder}: which file is the model, and of what type? {found}; "
            f'say it in {folder / OVERRIDES}, such as {{"type": "sklearn", "path": "model.joblib"}}'
        )
    return _model(folder.name, TYPES[fitting[0].suffix], fitting[0], key)


def _overrides(file: Path) -> dict[str, str]:
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CatalogError(f"{file}: {error}") from None
    if not isinstance(content, dict):
        raise CatalogError(f"{file}: must be a JSON object with type, path or key")
    for name, value in content.items():
        if name not in {"type", "path", "key"}:
            raise CatalogError(f"{file}: unknown member {name!r}; known are type, path and key")
        if name == "key" and isinstance(value, dict):
            content[name] = json.dumps(value)
        elif not isinstance(value, str) or not value:
            raise CatalogError(f"{file}: {name} must be non-empty text, got {value!r}")
    return content


def _model(model_id: str, model_type: str, path: Path, key: str) -> CatalogModel:
    path = path.resolve()
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return CatalogModel(
        model_id=model_id,
        model_type=model_type,
        path=path,
        key=key,
        size_bytes=sum(file.stat().st_size for file in files),
        has_samples=samples.beside(str(path)) is not None,
    )
