"""Model type, schema and size in a request to load."""

import json
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.runtimes import ModelInfo, RuntimeFailure
from mesh.runtimes.adapters.request import disk_size_bytes, read_request
from mesh.runtimes.adapters.schema import Schema, Tensor, parse_schema


@pytest.mark.parametrize(
    ("key", "field", "found"),
    [
        ({"model_type": {"name": "ONNX", "version": "1"}}, "other", "onnx"),
        ({"model_type": "sklearn:0.24"}, "other", "sklearn"),
        ({}, "XGBoost:1", "xgboost"),
        ({"model_type": {"version": "1"}}, "onnx", "onnx"),
        ({"model_type": 3}, "onnx", "onnx"),
        ({}, "", ""),
    ],
)
def test_the_type_of_the_key_counts_before_that_of_the_request(
    key: dict[str, object], field: str, found: str
) -> None:
    assert read_request(ModelInfo("m", field, "/m", json.dumps(key))).format == found


def test_schema_and_path() -> None:
    request = read_request(ModelInfo("m", "onnx", "/models/m/x", '{"schema_path":"/models/m/_schema.json"}'))
    assert request.path == Path("/models/m/x")
    assert request.schema_path == Path("/models/m/_schema.json")
    assert read_request(ModelInfo("m", "onnx", "/m", "")).schema_path is None


@pytest.mark.parametrize("key", ["{", "[]", "3", "[" * 100_000])
def test_a_key_that_is_no_object_is_refused(key: str) -> None:
    with pytest.raises(RuntimeFailure) as raised:
        read_request(ModelInfo("m", "onnx", "/m", key))
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.message.startswith("Invalid modelKey in LoadModelRequest. ModelKey value '")


def test_credentials_of_a_malformed_key_are_not_shown() -> None:
    with pytest.raises(RuntimeFailure) as raised:
        read_request(ModelInfo("m", "onnx", "/m", '{"storage_params":{"secret_access_key":"hush"}'))
    assert "hush" not in raised.value.message


def test_a_schema_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(
        RuntimeFailure, match=r"'schema_path' attribute must have a string value. Found value 3"
    ):
        read_request(ModelInfo("m", "onnx", "/m", '{"schema_path":3}'))


@pytest.mark.parametrize(
    ("key", "size"),
    [
        ('{"disk_size_bytes":344817}', 344817),
        ('{"disk_size_bytes":0}', None),
        ('{"disk_size_bytes":-4}', None),
        ('{"disk_size_bytes":true}', None),
        ('{"disk_size_bytes":"7"}', None),
        ('{"disk_size_bytes":1e400}', None),
        ("{}", None),
        ("no json", None),
    ],
)
def test_sizes(key: str, size: int | None) -> None:
    assert disk_size_bytes(key) == size


def test_a_schema() -> None:
    content = (
        b'{"inputs":[{"name":"a","datatype":"BYTES","shape":[-1,2],"more":1}],'
        b'"outputs":[{"name":"b","datatype":"STRING","shape":[]}]}'
    )
    assert parse_schema(content) == Schema((Tensor("a", "BYTES", (-1, 2)),), (Tensor("b", "BYTES", ()),))
    assert parse_schema(b"{}") == Schema(None, None)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "Unable to parse model schema JSON"),
        ("[]", "no object"),
        ('{"inputs":{}}', "'inputs' must be an array"),
        ('{"inputs":[1]}', "'inputs[0]'"),
        ('{"outputs":[{"datatype":"FP32","shape":[1]}]}', "'outputs[0].name'"),
        ('{"inputs":[{"name":"a","datatype":"TYPE_STRING","shape":[1]}]}', "'TYPE_STRING'"),
        ('{"inputs":[{"name":"a","datatype":"FP32","shape":[1.5]}]}', "'inputs[0].shape'"),
        ('{"inputs":[{"name":"a","datatype":"FP32","shape":[-2]}]}', "'inputs[0].shape'"),
        ('{"inputs":[{"name":"a","datatype":"FP32","shape":[true]}]}', "'inputs[0].shape'"),
    ],
)
def test_a_bad_schema_names_the_field(content: str, named: str) -> None:
    with pytest.raises(RuntimeFailure) as raised:
        parse_schema(content.encode())
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert named in raised.value.message


@given(
    st.binary()
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_any_schema_is_read_or_refused(content: bytes) -> None:
    try:
        parse_schema(content)
    except RuntimeFailure as failure:
        refused = failure.code
    else:
        return
    assert refused is grpc.StatusCode.INVALID_ARGUMENT
