"""Which files MLServer gets to see for which model."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.runtimes import RuntimeFailure
from mesh.runtimes.adapters.layout import Layout
from mesh.runtimes.adapters.mlserver_layout import mlserver_directory, plan_mlserver
from mesh.runtimes.adapters.request import ModelRequest

DIRECTORY = Path("/models/_mlserver_models/m")


def settings(layout: Layout) -> dict[str, Any]:
    loaded = json.loads(layout.files["model-settings.json"])
    assert isinstance(loaded, dict)
    return loaded


def native(tmp_path: Path, content: object, schema: object = None) -> Layout:
    path = tmp_path / "native"
    path.mkdir()
    (path / "model.joblib").write_text("pickle")
    (path / "model-settings.json").write_text(content if isinstance(content, str) else json.dumps(content))
    schema_path = None
    if schema is not None:
        schema_path = tmp_path / "_schema.json"
        schema_path.write_text(json.dumps(schema))
    layout = plan_mlserver(ModelRequest("m", path, "sklearn", schema_path), DIRECTORY)
    assert layout.links == {"model.joblib": path / "model.joblib"}
    return layout


@pytest.mark.parametrize(
    ("model_format", "implementation"),
    [
        ("sklearn", "mlserver_sklearn.SKLearnModel"),
        ("xgboost", "mlserver_xgboost.XGBoostModel"),
        ("lightgbm", "mlserver_lightgbm.LightGBMModel"),
        ("mllib", "mlserver_mllib.MLlibModel"),
    ],
)
@pytest.mark.parametrize("directory", [False, True])
def test_settings_are_generated(
    tmp_path: Path, model_format: str, implementation: str, directory: bool
) -> None:
    path = tmp_path / "model.bin"
    if directory:
        path.mkdir()
    else:
        path.touch()
    layout = plan_mlserver(ModelRequest("my model", path, model_format), DIRECTORY)
    assert layout.links == {"model.bin": path}
    assert settings(layout) == {
        "name": "my model",
        "implementation": implementation,
        "parameters": {"uri": "/models/_mlserver_models/m/model.bin"},
    }


def test_an_unknown_type_needs_settings_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    with pytest.raises(RuntimeFailure, match="'onnx' is none of lightgbm") as raised:
        plan_mlserver(ModelRequest("m", tmp_path / "m", "onnx"), DIRECTORY)
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["modèle", "two\nlines", "数字"])
def test_a_name_that_mlserver_cannot_answer_with_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "m").touch()
    with pytest.raises(RuntimeFailure, match="printable ASCII") as raised:
        plan_mlserver(ModelRequest(name, tmp_path / "m", "sklearn"), DIRECTORY)
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert repr(name) in raised.value.message


def test_settings_of_its_own_get_name_and_absolute_path(tmp_path: Path) -> None:
    layout = native(
        tmp_path,
        {
            "name": "theirs",
            "implementation": "own.Model",
            "parameters": {"uri": "./model.joblib", "version": "v1", "extra": {"n": 12345678901234567890}},
            "comment": "<a & ü>",
        },
    )
    assert settings(layout) == {
        "name": "m",
        "implementation": "own.Model",
        "parameters": {
            "uri": "/models/_mlserver_models/m/model.joblib",
            "version": "v1",
            "extra": {"n": 12345678901234567890},
        },
        "comment": "<a & ü>",
    }


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("/etc/passwd", "/models/_mlserver_models/m/etc/passwd"),
        ("../../other/x", "/models/_mlserver_models/m/other/x"),
        ("a/../../..", "/models/_mlserver_models/m"),
        ("", "/models/_mlserver_models/m"),
        ("hf://org/model", "hf://org/model"),
    ],
)
def test_a_path_stays_in_the_models_directory(tmp_path: Path, uri: str, absolute: str) -> None:
    assert settings(native(tmp_path, {"parameters": {"uri": uri}}))["parameters"]["uri"] == absolute


def test_settings_without_parameters_get_none(tmp_path: Path) -> None:
    assert settings(native(tmp_path, {"implementation": "own.Model"})) == {
        "name": "m",
        "implementation": "own.Model",
    }


def test_the_schema_replaces_tensors_and_keeps_what_else_they_say(tmp_path: Path) -> None:
    layout = native(
        tmp_path,
        {
            "inputs": [
                {"name": "a", "datatype": "FP64", "shape": [1], "parameters": {"content_type": "pd"}},
                {"name": "gone", "datatype": "FP64", "shape": [1]},
            ],
            "outputs": [{"name": "b", "datatype": "FP64", "shape": [1]}],
        },
        {"inputs": [{"name": "a", "datatype": "FP32", "shape": [-1, 2]}]},
    )
    assert settings(layout)["inputs"] == [
        {"name": "a", "datatype": "FP32", "shape": [-1, 2], "parameters": {"content_type": "pd"}}
    ]
    assert settings(layout)["outputs"] == [{"name": "b", "datatype": "FP64", "shape": [1]}]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "null", '{"parameters":[]}', '{"parameters":{"uri":3}}', '{"parameters":{"uri":"a\\u0000"}}'],
)
def test_malformed_settings_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(RuntimeFailure, match=r"model-settings\.json of the model is malformed") as raised:
        native(tmp_path, content)
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["name", "parameters", "uri", "x"]), inner)
        ),
    )
)
def test_any_settings_are_rewritten_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    try:
        layout = native(tmp_path_factory.mktemp("any"), content)
    except RuntimeFailure as failure:
        refused = failure.code
    else:
        found = settings(layout)
        assert found["name"] == "m"
        uri = (found.get("parameters") or {}).get("uri")
        assert uri is None or "://" in uri or Path(uri).is_relative_to(DIRECTORY)
        return
    assert refused is grpc.StatusCode.INVALID_ARGUMENT


@given(st.text(min_size=1, max_size=40))
def test_any_id_has_a_directory(model_id: str) -> None:
    try:
        name = mlserver_directory(model_id)
    except RuntimeFailure:
        assert len(model_id.encode("utf-8", "surrogatepass")) > 80
        return
    assert name not in {"", ".", ".."}
    assert "/" not in name
    assert not name.startswith(".")
