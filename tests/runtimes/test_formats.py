import shutil
from pathlib import Path

import pytest

from mesh.runtimes import ModelInfo, RuntimeFailure
from mesh.runtimes.builtin.formats import locate, model_type

MODELS = Path(__file__).parents[1] / "models"


@pytest.mark.parametrize(
    ("beside", "key", "told"),
    [
        ("sklearn", "", "sklearn"),
        ("SKLearn:0.23", "", "sklearn"),
        ("", '{"model_type": {"name": "onnx", "version": "1"}}', "onnx"),
        ("sklearn", '{"model_type": "xgboost:1"}', "xgboost"),
        ("sklearn", '{"disk_size_bytes": 5}', "sklearn"),
        ("", "", ""),
    ],
)
def test_the_type_is_told_in_the_key_or_beside_it(beside: str, key: str, told: str) -> None:
    assert model_type(ModelInfo("m", beside, key=key)) == told


@pytest.mark.parametrize("key", ["not json", "[1]", '"text"'])
def test_a_key_that_is_no_object_is_refused(key: str) -> None:
    with pytest.raises(RuntimeFailure, match="the model's key"):
        model_type(ModelInfo("m", key=key))


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        ("mnist-onnx", "onnx"),
        ("mnist-svm", "sklearn"),
        ("mushroom-xgboost", "xgboost"),
        # Its suffix, .bst, is also XGBoost's.
        ("mushroom-lightgbm", "lightgbm"),
    ],
)
def test_without_a_type_the_file_tells(tmp_path: Path, sample: str, name: str) -> None:
    (file,) = (MODELS / sample).glob("model.*")
    form, found = locate(ModelInfo("m", path=str(file)))
    assert (form.name, found) == (name, file)
    shutil.copy(file, tmp_path)
    form, found = locate(ModelInfo("m", path=str(tmp_path)))
    assert (form.name, found) == (name, tmp_path / file.name)


def directory(path: Path, *names: str) -> ModelInfo:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"{}")
    return ModelInfo("m", "xgboost", str(path))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["model.json", "model-settings.json", "README.md", ".hidden.json"], "model.json"),
        (["1/model.json", "12/model.json", "2/model.json"], "12/model.json"),
        (["whatever"], "whatever"),
    ],
)
def test_in_a_directory_the_one_file_that_can_be_meant_counts(
    tmp_path: Path, names: list[str], found: str
) -> None:
    assert locate(directory(tmp_path, *names))[1] == tmp_path / found


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.json", "b.ubj"], "must hold one XGBoost file .*; it holds a.json, b.ubj"),
        (["a.md", "b.md"], "it holds a.md, b.md"),
        (["x/model.json"], "it holds x"),
        ([], "it holds nothing"),
    ],
)
def test_a_directory_without_one_such_file_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(RuntimeFailure, match=message):
        locate(directory(tmp_path, *names))


def test_what_is_not_there_not_known_or_not_recognised_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="there is no file or directory '/nonexistent'"):
        locate(ModelInfo("m", "onnx", "/nonexistent"))
    with pytest.raises(RuntimeFailure, match="'keras' is unknown to this runtime; it serves onnx, sklearn"):
        locate(ModelInfo("m", "keras", str(tmp_path)))
    (tmp_path / "notes.txt").write_text("dear diary")
    with pytest.raises(RuntimeFailure, match=r"notes.txt is not recognised; name its format"):
        locate(ModelInfo("m", path=str(tmp_path / "notes.txt")))
