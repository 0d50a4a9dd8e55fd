import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli import samples
from mesh.cli.laptop.catalog import TYPES, CatalogError, read_catalog
from mesh.cli.tensors import InputError


def put(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_folders_and_files_are_models(tmp_path: Path) -> None:
    put(tmp_path / "boats" / "model.onnx", "12345")
    put(tmp_path / "boats" / "sample.json")
    put(tmp_path / "cars.v2.joblib")
    put(tmp_path / "cars.v2.sample.json")
    put(tmp_path / ".made-by.json")
    put(tmp_path / "README.md")
    boats, cars = read_catalog(tmp_path)
    assert (boats.model_id, boats.model_type, boats.path) == (
        "boats",
        "onnx",
        tmp_path / "boats" / "model.onnx",
    )
    assert (boats.size_bytes, boats.has_samples) == (5, True)
    assert (cars.model_id, cars.model_type, cars.has_samples) == ("cars.v2", "sklearn", True)


@given(st.sampled_from(sorted(TYPES)))
def test_the_type_follows_from_the_ending(tmp_path_factory: pytest.TempPathFactory, ending: str) -> None:
    directory = tmp_path_factory.mktemp("models")
    put(directory / f"a{ending}")
    put(directory / "b" / f"weights{ending}")
    assert [model.model_type for model in read_catalog(directory)] == [TYPES[ending]] * 2


def test_mesh_json_says_what_does_not_follow(tmp_path: Path) -> None:
    put(tmp_path / "own" / "weights.bin")
    put(tmp_path / "own" / "mesh.json", json.dumps({"type": "custom", "key": {"threads": 2}}))
    put(tmp_path / "picked" / "one.joblib")
    put(tmp_path / "picked" / "two.onnx")
    put(tmp_path / "picked" / "mesh.json", json.dumps({"path": "two.onnx"}))
    put(tmp_path / "typed" / "model.txt")
    put(tmp_path / "typed" / "mesh.json", json.dumps({"type": "xgboost", "key": "k"}))
    own, picked, typed = read_catalog(tmp_path)
    assert (own.model_type, own.path, json.loads(own.key)) == ("custom", tmp_path / "own", {"threads": 2})
    assert (picked.model_type, picked.path.name) == ("onnx", "two.onnx")
    assert (typed.model_type, typed.path.name, typed.key) == ("xgboost", "model.txt", "k")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no model in it"),
        ({"README.md": ""}, "there is no model in it"),
        ({"m/a.onnx": "", "m/b.joblib": ""}, r"which file is the model.*a.onnx, b.joblib"),
        ({"m/weights.bin": ""}, "no ending in it tells"),
        ({"m/mesh.json": "{"}, r"m/mesh.json"),
        ({"m/mesh.json": "[]"}, "must be a JSON object"),
        ({"m/mesh.json": '{"typ": "onnx"}'}, "unknown member 'typ'"),
        ({"m/mesh.json": '{"type": 3}'}, "type must be non-empty text, got 3"),
        ({"m/mesh.json": '{"path": "gone.onnx"}'}, "'gone.onnx' does not exist"),
        ({"m/mesh.json": '{"path": "weights"}', "m/weights": ""}, 'add "type"'),
        ({"m.onnx": "", "m/model.onnx": ""}, "are both model 'm': rename one"),
    ],
)
def test_what_cannot_be_told_is_refused_with_a_remedy(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        put(tmp_path / name, content)
    with pytest.raises(CatalogError, match=message):
        read_catalog(tmp_path)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="No such file"):
        read_catalog(tmp_path / "gone")


def test_samples_are_found_beside_a_file_and_in_a_folder(tmp_path: Path) -> None:
    assert samples.beside("") is None
    assert samples.beside("relative/model.onnx") is None
    assert samples.beside(str(tmp_path / "model.onnx")) is None
    inside = put(tmp_path / "m" / "sample.json")
    assert samples.beside(str(tmp_path / "m")) == samples.beside(str(tmp_path / "m" / "model.onnx")) == inside
    nearer = put(tmp_path / "m" / "model.sample.json")
    assert samples.beside(str(tmp_path / "m" / "model.onnx")) == nearer


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"samples": [{}]}', '{"samples": 3}'])
def test_a_broken_sample_file_is_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match=r"sample\.json is not a file of samples"):
        samples.read(put(tmp_path / "sample.json", content), 0)
