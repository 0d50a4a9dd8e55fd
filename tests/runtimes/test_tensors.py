import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mesh.protos import inference_pb2 as pb
from mesh.runtimes.python import InvalidInput, TensorSpec
from mesh.runtimes.python.tensors import check_inputs, read_inputs, read_parameters, write_outputs
from mesh.tensors import DATATYPES, Array, from_bfloat16, to_bfloat16

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NUMBERS = st.sampled_from(
    [datatype.dtype for datatype in DATATYPES.values() if datatype.name not in ("BYTES", "BF16")]
)


def as_request(response: pb.ModelInferResponse) -> pb.ModelInferRequest:
    """Sends outputs back as inputs: the messages have the same fields."""
    request = pb.ModelInferRequest(raw_input_contents=response.raw_output_contents)
    for output in response.outputs:
        request.inputs.add().MergeFromString(output.SerializeToString())
    return request


def there_and_back(array: Array, *, raw: bool, datatypes: dict[str, str] | None = None) -> Array:
    response = pb.ModelInferResponse()
    write_outputs({"a": array}, response, raw=raw, datatypes=datatypes)
    return read_inputs(as_request(response))["a"]


@given(array=NUMBERS.flatmap(lambda dtype: arrays.arrays(dtype, SHAPES)), raw=st.booleans())
def test_numbers_survive_the_wire(array: Array, raw: bool) -> None:
    back = there_and_back(array, raw=raw)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(elements=st.lists(st.one_of(st.binary(max_size=9), st.text(max_size=9))), raw=st.booleans())
def test_bytes_and_texts_survive_the_wire(elements: list[bytes | str], raw: bool) -> None:
    array = np.empty(len(elements), object)
    array[:] = elements
    back = there_and_back(array, raw=raw)
    assert back.tolist() == [
        element.encode() if isinstance(element, str) else element for element in elements
    ]


@pytest.mark.parametrize("raw", [True, False])
def test_odd_layouts_are_sent_row_by_row(raw: bool) -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4).T[::-1]
    np.testing.assert_array_equal(there_and_back(array, raw=raw), array)


def test_fixed_width_texts_are_sent_as_bytes() -> None:
    assert there_and_back(np.array(["ä", "bc"]), raw=False).tolist() == ["ä".encode(), b"bc"]


@given(arrays.arrays(np.float32, 5))
def test_bfloat16_keeps_what_it_can(array: Array) -> None:
    back = there_and_back(array, raw=False, datatypes={"a": "BF16"})
    np.testing.assert_array_equal(np.isnan(back), np.isnan(array))
    finite = np.isfinite(array) & (np.abs(array) < 1e38) & (np.abs(array) > 1e-37)
    np.testing.assert_allclose(back[finite], array[finite], rtol=2**-8)
    np.testing.assert_array_equal(to_bfloat16(from_bfloat16(to_bfloat16(array))), to_bfloat16(array))


def test_bfloat16_rounds_ties_to_even() -> None:
    ties = np.array([0x3F808000, 0x3F818000], "<u4").view("<f4")
    assert to_bfloat16(ties).tolist() == [0x3F80, 0x3F82]


def test_a_half_makes_all_outputs_raw() -> None:
    response = pb.ModelInferResponse()
    write_outputs({"h": np.ones(2, np.float16), "i": np.ones(2, np.int32)}, response, raw=False)
    assert [len(data) for data in response.raw_output_contents] == [4, 8]
    assert not response.outputs[1].HasField("contents")


@pytest.mark.parametrize("bad", [np.ones(1, complex), np.array([object()])])
def test_an_output_that_cannot_be_sent_is_named(bad: Array) -> None:
    with pytest.raises(TypeError, match="output 'y'"):
        write_outputs({"y": bad}, pb.ModelInferResponse(), raw=True)


def request_of(
    datatype: str, shape: list[int], raw: bytes | None = None, **contents: Any
) -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape)
    if contents:
        tensor.contents.CopyFrom(pb.InferTensorContents(**contents))
    return pb.ModelInferRequest(inputs=[tensor], raw_input_contents=[] if raw is None else [raw])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (request_of("FP31", [1], b"1234"), "input 'x' has datatype 'FP31', expected one of BOOL, INT8"),
        (request_of("FP32", [-1], b"1234"), r"input 'x' has shape \[-1\], expected no negative length"),
        (request_of("FP32", [2], b"1234"), r"input 'x' has 4 raw bytes, expected 8 for FP32 of shape \[2\]"),
        (
            request_of("FP32", [2], int_contents=[1, 2]),
            r"0 elements in fp32_contents, expected 2 for FP32 of shape \[2\]; int_contents has 2",
        ),
        (request_of("FP16", [1], fp32_contents=[1]), "input 'x' is FP16: send it in raw_input_contents"),
        (request_of("BF16", [1], fp32_contents=[1]), "input 'x' is BF16: send it in raw_input_contents"),
        (request_of("INT8", [1], int_contents=[128]), "input 'x' is INT8 but not all of -128 to 127"),
        (request_of("UINT16", [1], uint_contents=[70000]), "UINT16 but not all of 0 to 65535"),
        (request_of("FP32", [1], b"1234", fp32_contents=[1]), "has contents beside raw_input_contents"),
        (
            request_of("BYTES", [2], struct.pack("<I", 1) + b"a"),
            "has 1 whole BYTES elements in 5 of 5 raw bytes",
        ),
        (
            request_of("BYTES", [1], struct.pack("<I", 9) + b"a"),
            "has 0 whole BYTES elements in 0 of 5 raw bytes",
        ),
        (
            request_of("BYTES", [1], b"\0\0\0\0\0"),
            "has 1 whole BYTES elements in 4 of 5 raw bytes, expected 1",
        ),
        (request_of("BYTES", [1], b"\0"), "has 0 whole BYTES elements"),
        (request_of("FP32", [1 << 62, 4], b""), "input 'x' has 0 raw bytes, expected"),
    ],
)
def test_bad_inputs_are_named_with_what_was_expected(request_: pb.ModelInferRequest, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_inputs(request_)


def test_raw_contents_must_be_one_for_each_input() -> None:
    request = request_of("FP32", [1], b"1234")
    request.raw_input_contents.append(b"")
    with pytest.raises(InvalidInput, match="raw_input_contents has 2 elements, expected 1"):
        read_inputs(request)


def test_an_input_given_twice_is_refused() -> None:
    request = request_of("FP32", [1], fp32_contents=[1])
    request.inputs.add().CopyFrom(request.inputs[0])
    with pytest.raises(InvalidInput, match="input 'x' is given twice"):
        read_inputs(request)


@given(st.binary(max_size=40), st.sampled_from(list(DATATYPES)), st.lists(st.integers(-1, 5), max_size=3))
def test_any_bytes_are_read_or_refused(data: bytes, datatype: str, shape: list[int]) -> None:
    try:
        array = read_inputs(request_of(datatype, shape, data))["x"]
    except InvalidInput:
        return
    assert list(array.shape) == shape


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TensorSpec("y", "FP32", (1,)), "input 'x' is unknown; the model takes 'y'"),
        (TensorSpec("x", "FP64", (1,)), "input 'x' is FP32, expected FP64"),
        (TensorSpec("x", "FP32", (-1, 3)), r"input 'x' has shape \[2\], expected \[-1, 3\]"),
        (TensorSpec("x", "FP32", (3,)), r"input 'x' has shape \[2\], expected \[3\]"),
    ],
)
def test_inputs_are_compared_with_what_the_model_takes(spec: TensorSpec, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_inputs(request_of("FP32", [2], b"12345678"), [spec])


def test_a_missing_input_is_named() -> None:
    with pytest.raises(InvalidInput, match="input 'z' is missing; the model takes 'x', 'z'"):
        check_inputs(request_of("FP32", [2]), [TensorSpec("x", "FP32", (-1,)), TensorSpec("z", "FP32", (1,))])


def test_parameters_keep_their_kind() -> None:
    parameters = {
        "b": pb.InferParameter(bool_param=False),
        "i": pb.InferParameter(int64_param=-1),
        "s": pb.InferParameter(string_param="x"),
        "d": pb.InferParameter(double_param=0.5),
        "u": pb.InferParameter(uint64_param=(1 << 64) - 1),
        "none": pb.InferParameter(),
    }
    assert read_parameters(parameters) == {"b": False, "i": -1, "s": "x", "d": 0.5, "u": (1 << 64) - 1}
