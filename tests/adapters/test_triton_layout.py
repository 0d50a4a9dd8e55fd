"""Which files Triton gets to see for which model."""

import json
from pathlib import Path

import grpc
import pytest

from mesh.runtimes import RuntimeFailure
from mesh.runtimes.adapters.layout import plain_directory
from mesh.runtimes.adapters.request import ModelRequest
from mesh.runtimes.adapters.triton_layout import plan_triton

SCHEMA = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}


def tree(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def links(path: Path, model_format: str) -> dict[str, str]:
    layout = plan_triton(ModelRequest("m", path, model_format))
    assert layout.files == {}
    return {name: str(target.relative_to(path.parent)) for name, target in layout.links.items()}


@pytest.mark.parametrize(
    ("model_format", "link"),
    [
        ("tensorflow", "1/model.graphdef"),
        ("onnx", "1/model.onnx"),
        ("pytorch", "1/model.pt"),
        ("tensorrt", "1/model.plan"),
        ("python", "1/some.file"),
        ("", "1/some.file"),
    ],
)
def test_a_file(tmp_path: Path, model_format: str, link: str) -> None:
    tree(tmp_path, "some.file")
    assert links(tmp_path / "some.file", model_format) == {link: "some.file"}


@pytest.mark.parametrize(
    ("model_format", "link"),
    [
        ("tensorflow", "1/model.savedmodel"),
        ("keras", "1/model.savedmodel"),
        ("onnx", "1/model.onnx"),
        ("pytorch", "1"),
        ("tensorrt", "1"),
        ("sklearn", "1"),
    ],
)
def test_a_directory(tmp_path: Path, model_format: str, link: str) -> None:
    tree(tmp_path / "m", "a", "b/c")
    assert links(tmp_path / "m", model_format) == {link: "m"}


@pytest.mark.parametrize(
    ("files", "model_format", "expected"),
    [
        (("model.bin",), "onnx", {"1/model.onnx": "m/model.bin"}),
        (("model.bin", "_schema.json"), "onnx", {"1/model.onnx": "m/model.bin"}),
        (("model.bin",), "sklearn", {"1": "m"}),
        (("saved/variables/x", "saved/saved_model.pb"), "tensorflow", {"1/model.savedmodel": "m/saved"}),
        (("1/model.onnx", "3/model.onnx", "20/model.onnx"), "onnx", {"20/model.onnx": "m/20/model.onnx"}),
        (("007/a", "3/a"), "pytorch", {"007/model.pt": "m/007/a"}),
        (("1/a", "1/b", "readme"), "tensorflow", {"1/model.savedmodel": "m/1"}),
        (("1/a", "other/b"), "tensorflow", {"1/model.savedmodel": "m"}),
        (("0/a", "b"), "python", {"1": "m"}),
    ],
)
def test_versions_and_single_entries(
    tmp_path: Path, files: tuple[str, ...], model_format: str, expected: dict[str, str]
) -> None:
    assert links(tree(tmp_path / "m", *files), model_format) == expected


def test_a_repository_of_its_own_is_passed_through_without_its_name(tmp_path: Path) -> None:
    path = tree(tmp_path / "m", "1/model.json", "2/model.json", "labels.txt")
    (path / "config.pbtxt").write_bytes(b'name: "other"\nbackend: "fil" # \xff\n')
    layout = plan_triton(ModelRequest("m", path, "xgboost"))
    assert layout.links == {"1": path / "1", "2": path / "2", "labels.txt": path / "labels.txt"}
    assert layout.files == {"config.pbtxt": b'\nbackend: "fil" # \xff\n'}


def test_a_schema_becomes_a_configuration(tmp_path: Path) -> None:
    tree(tmp_path, "m.onnx")
    (tmp_path / "_schema.json").write_text(json.dumps(SCHEMA))
    layout = plan_triton(ModelRequest("m", tmp_path / "m.onnx", "onnx", tmp_path / "_schema.json"))
    assert layout.files["config.pbtxt"].startswith(b'backend: "onnxruntime"\ninput {\n  name: "x"\n')


@pytest.mark.parametrize("name", ["model.h5", "dir/model.h5"])
def test_a_keras_file_is_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    path = tree(tmp_path / "m", name) / Path(name).parts[0]
    with pytest.raises(RuntimeFailure, match="SavedModel") as raised:
        plan_triton(ModelRequest("m", path, "keras"))
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure) as raised:
        plan_triton(ModelRequest("m", tmp_path / "none", "onnx"))
    assert raised.value.code is grpc.StatusCode.NOT_FOUND
    assert str(tmp_path / "none") in raised.value.message
    with pytest.raises(RuntimeFailure) as raised:
        plan_triton(ModelRequest("m", Path("models/x"), "onnx"))
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT
    tree(tmp_path, "m")
    with pytest.raises(RuntimeFailure) as raised:
        plan_triton(ModelRequest("m", tmp_path / "m", "onnx", tmp_path / "no-schema"))
    assert raised.value.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("model_id", ["", ".", "..", "a/b", "../x", "a\0", "x" * 256])
def test_an_id_that_is_no_directory_is_refused(model_id: str) -> None:
    with pytest.raises(RuntimeFailure) as raised:
        plain_directory(model_id, "Triton")
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_layout_replaces_the_one_before_and_follows_no_link(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", "1/keep")
    directory = tmp_path / "repository" / "m"
    plan_triton(ModelRequest("m", data, "python")).write(directory)
    assert (directory / "1" / "keep").read_text() == "1/keep"
    tree(tmp_path, "m.onnx")
    plan_triton(ModelRequest("m", tmp_path / "m.onnx", "onnx")).write(directory)
    assert sorted(str(path.relative_to(directory)) for path in directory.rglob("*")) == ["1", "1/model.onnx"]
    assert (data / "1" / "keep").exists()
