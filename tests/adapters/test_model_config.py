"""Rewriting Triton's config.pbtxt, judged by Triton's own message."""

import grpc
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from mesh.runtimes import RuntimeFailure
from mesh.runtimes.adapters.model_config import CONFLICT, generate_config, rewrite_config
from mesh.runtimes.adapters.schema import DATATYPES, Schema, Tensor

CONFIG = """
# A model of some repository.
name: "simple"  # must go
platform: "tensorflow_graphdef"
max_batch_size: 8
input [
  {
    name: "INPUT0" data_type: TYPE_STRING dims: [ 16 ]
  },
  { name: 'IN}PUT1', data_type: TYPE_STRING; dims: 16 }
]
output { name: "OUTPUT0" data_type: TYPE_STRING dims: [ 16 ] }
output < name: "OUTPUT1" data_type: TYPE_STRING dims: [ -1 ] >
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters: { key: "name" value: { string_value: "x" "y" } }
optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }
of_the_future { name: "kept" } future_number: -7
"""


def parse(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig(), allow_unknown_field=True)


def test_only_the_name_goes() -> None:
    rewritten = rewrite_config(CONFIG, None)
    expected = parse(CONFIG)
    expected.ClearField("name")
    assert parse(rewritten) == expected
    assert "# A model of some repository." in rewritten
    assert 'of_the_future { name: "kept" } future_number: -7' in rewritten


def test_the_schema_replaces_what_it_tells() -> None:
    schema = Schema(inputs=(Tensor("x", "BYTES", (-1, 3)), Tensor("y", "BF16", (-1, -1))))
    found = parse(rewrite_config(CONFIG, schema))
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in found.input] == [
        ("x", model_config_pb2.TYPE_STRING, [3]),
        ("y", model_config_pb2.TYPE_BF16, [-1]),
    ]
    expected = parse(CONFIG)
    assert found.output == expected.output
    assert found.instance_group == expected.instance_group


@pytest.mark.parametrize("shape", [(), (8, 3), (0,)])
def test_a_batched_model_wants_a_dimension_of_any_size_first(shape: tuple[int, ...]) -> None:
    schema = Schema(outputs=(Tensor("x", "FP32", shape),))
    with pytest.raises(RuntimeFailure) as raised:
        rewrite_config(CONFIG, schema)
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.message == CONFLICT
    unbatched = rewrite_config("max_batch_size: 0", schema)
    assert list(parse(unbatched).output[0].dims) == list(shape)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('name: "x', 1),
        ("\n\ninput {", 3),
        ("input [ { ] }", 1),
        ("name", 1),
        ("\n: 3", 2),
        ("a: }", 1),
        ("max_batch_size: 8\n$", 2),
    ],
)
def test_text_that_is_no_configuration_is_refused(text: str, line: int) -> None:
    with pytest.raises(RuntimeFailure) as raised:
        rewrite_config(text, None)
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"at line {line}:" in raised.value.message


def test_a_batch_size_that_is_no_number_is_refused() -> None:
    with pytest.raises(RuntimeFailure, match="max_batch_size 'many'"):
        rewrite_config("max_batch_size: many", None)


def test_a_configuration_is_generated() -> None:
    schema = Schema((Tensor("a", "FP32", (1, 2)),), (Tensor("b", "BYTES", (-1,)),))
    found = parse(generate_config("onnxruntime", schema))
    assert found.backend == "onnxruntime"
    assert found.input[0].data_type == model_config_pb2.TYPE_FP32
    assert list(found.input[0].dims) == [1, 2]
    assert found.output[0].data_type == model_config_pb2.TYPE_STRING
    assert generate_config("", Schema()) == ""


TENSORS = st.lists(
    st.builds(
        Tensor,
        st.text(st.characters(exclude_categories=["Cs"])),
        st.sampled_from(sorted(DATATYPES)),
        st.lists(st.integers(-1, 2**63 - 1), max_size=4).map(tuple),
    ),
    max_size=3,
).map(tuple)


@given(
    name=st.text(st.characters(exclude_categories=["Cs"])),
    labels=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.text(st.characters(exclude_categories=["Cs"])),
        max_size=3,
    ),
    old=TENSORS,
    new=st.builds(Schema, st.none() | TENSORS, st.none() | TENSORS),
    one_line=st.booleans(),
)
def test_any_configuration_keeps_all_but_name_and_tensors(
    name: str, labels: dict[str, str], old: tuple[Tensor, ...], new: Schema, one_line: bool
) -> None:
    config = parse(generate_config("python", Schema(old, old)))
    config.name = name
    for label, value in labels.items():
        config.parameters[label].string_value = value
    found = parse(rewrite_config(text_format.MessageToString(config, as_one_line=one_line), new))
    expected = parse(generate_config("python", Schema(new.inputs or (), new.outputs or ())))
    if new.inputs is None:
        expected.input.extend(config.input)
    if new.outputs is None:
        expected.output.extend(config.output)
    for label, value in labels.items():
        expected.parameters[label].string_value = value
    assert found == expected


@given(st.text(st.sampled_from("name input:{}[]<>\"'\\,;#\n8-$ ")))
def test_any_text_is_rewritten_or_refused(text: str) -> None:
    try:
        rewrite_config(text, None)
    except RuntimeFailure as failure:
        refused = failure.code
    else:
        return
    assert refused is grpc.StatusCode.INVALID_ARGUMENT
