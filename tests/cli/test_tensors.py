import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.tensors import InputError, Tensor, label_of, outputs_of, request_from_json, tensors_to_json
from mesh.protos import inference_pb2

INTEGERS = {
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
}


def test_a_list_of_numbers_is_one_tensor() -> None:
    request = request_from_json("m", [[1, 2.5], [3, 4]])
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("input", "FP32", [2, 2])
    assert list(tensor.contents.fp32_contents) == [1, 2.5, 3, 4]
    assert request.model_name == "m"
    assert list(request_from_json("m", [1, 2, 3]).inputs[0].shape) == [1, 3]


def test_a_request_keeps_names_types_and_shapes() -> None:
    request = request_from_json(
        "m",
        {
            "inputs": [
                {"name": "a", "datatype": "INT64", "shape": [2], "data": [1, -1]},
                {"name": "b", "datatype": "BYTES", "shape": [1], "data": ["é"]},
                {"name": "c", "datatype": "BOOL", "shape": [1, 1], "data": [[True]]},
            ]
        },
    )
    assert [tensor.name for tensor in request.inputs] == ["a", "b", "c"]
    assert list(request.inputs[0].contents.int64_contents) == [1, -1]
    assert list(request.inputs[1].contents.bytes_contents) == ["é".encode()]
    assert list(request.inputs[2].contents.bool_contents) == [True]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "must be a list of numbers"),
        ({"inputs": []}, "must be a list of numbers"),
        ({"inputs": ["x"]}, r"inputs\[0\]: must be an object"),
        ([[1, 2], [3]], "rows differ in length"),
        ([1, [2]], "mixed"),
        ({"inputs": [{"data": [1], "datatype": "FP16"}]}, r"inputs\[0\].datatype: 'FP16'"),
        (
            {"inputs": [{"data": [1, 2], "shape": [3]}]},
            r"inputs\[0\].shape: \[3\] holds 3 elements, data has 2",
        ),
        (
            {"inputs": [{"data": ["one"], "datatype": "INT32"}]},
            r"inputs\[0\].data: not all elements are INT32",
        ),
    ],
)
def test_bad_inputs_are_refused_with_their_place(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        request_from_json("m", value)


@given(st.sampled_from(sorted(INTEGERS)), st.data())
def test_raw_and_typed_contents_read_the_same(datatype: str, data: st.DataObject) -> None:
    letter = INTEGERS[datatype]
    bits = struct.calcsize(f"<{letter}") * 8
    low, high = (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    values = data.draw(st.lists(st.integers(low, high), max_size=8))
    request = request_from_json("m", {"inputs": [{"name": "x", "datatype": datatype, "data": values}]})
    typed = inference_pb2.ModelInferResponse()
    typed.outputs.add(name="x", datatype=datatype, shape=[len(values)]).contents.CopyFrom(
        request.inputs[0].contents
    )
    raw = inference_pb2.ModelInferResponse(
        raw_output_contents=[struct.pack(f"<{len(values)}{letter}", *values)]
    )
    raw.outputs.add(name="x", datatype=datatype, shape=[len(values)])
    assert outputs_of(typed) == outputs_of(raw) == [Tensor("x", datatype, (len(values),), tuple(values))]


@given(st.lists(st.text(), max_size=5))
def test_text_survives_raw_contents(texts: list[str]) -> None:
    raw = b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in texts)
    response = inference_pb2.ModelInferResponse(raw_output_contents=[raw])
    response.outputs.add(name="x", datatype="BYTES", shape=[len(texts)])
    assert outputs_of(response)[0].data == tuple(texts)


@pytest.mark.parametrize(("datatype", "raw"), [("FP32", b"12345"), ("BYTES", b"\xff\0\0\0x"), ("INT7", b"")])
def test_contents_that_make_no_sense_are_refused(datatype: str, raw: bytes) -> None:
    response = inference_pb2.ModelInferResponse(raw_output_contents=[raw])
    response.outputs.add(name="scores", datatype=datatype, shape=[1])
    with pytest.raises(InputError, match="scores"):
        outputs_of(response)


def tensor(*data: bool | float | str, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor("y", "FP32", shape or (1, len(data)), data)


@pytest.mark.parametrize(
    ("outputs", "labels", "label"),
    [
        ([tensor(2)], ("a", "b", "c"), "c"),
        ([tensor(2.0)], ("a", "b", "c"), "c"),
        ([tensor(0.1, 0.7, 0.2)], ("a", "b", "c"), "b"),
        ([tensor("b")], ("a", "b", "c"), "b"),
        ([tensor(0.97)], ("no", "yes"), "yes"),
        ([tensor(0.02)], ("no", "yes"), "no"),
        ([tensor("odd one"), tensor(1)], ("no", "yes"), "yes"),
        ([tensor(7)], ("no", "yes"), None),
        ([tensor(1, 2, 3)], ("no", "yes"), None),
        ([tensor(1, 0, 0, 1, shape=(2, 2))], ("no", "yes"), "no"),
        ([tensor(1, 0, shape=(2,))], ("a", "b", "c"), "b"),
    ],
)
def test_answers_of_classifiers_are_read_in_every_form(
    outputs: list[Tensor], labels: tuple[str, ...], label: str | None
) -> None:
    assert label_of(outputs, labels) == label


def test_outputs_as_json() -> None:
    assert tensors_to_json([tensor(1, 2)]) == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    ]
