import base64
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.payload.messages import INFER, STREAM_INFER, NotReadable, parse, tensors_of, to_json
from mesh.payload.records import encode_record
from mesh.payload.redaction import Redaction
from mesh.protos import inference_pb2 as pb
from mesh.tensors import DATATYPES, to_bfloat16
from tests.payload.inference import infer_request, infer_response
from tests.payload.parts import request, response

NUMBERS = [name for name in DATATYPES if name not in ("BYTES", "BF16")]


def described(message: pb.ModelInferRequest | pb.ModelInferResponse) -> Any:
    return json.loads(msgspec.json.encode(to_json(message)))


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_datatype_is_told_in_json(name: str, raw: bool) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]], DATATYPES[name].dtype)
    told = described(infer_response(raw=raw, a=array))
    assert told == {
        "model_name": "m",
        "model_version": "1",
        "id": "r1",
        "outputs": [{"name": "a", "shape": [2, 3], "datatype": name, "data": [0, 1, 1, 1, 0, 1]}],
    }


def test_bfloat16_is_told_in_json() -> None:
    array = np.array([1.5, -2.0], np.float32)
    message = infer_request(a=array, datatypes={"a": "BF16"})
    assert message.raw_input_contents[0] == to_bfloat16(array).tobytes()
    assert described(message)["inputs"][0] | {} == {
        "name": "a",
        "shape": [2],
        "datatype": "BF16",
        "data": [1.5, -2.0],
    }


def test_bytes_are_texts_or_base64_and_parameters_are_kept() -> None:
    message = infer_request(t=np.array([b"gr\xc3\xbcn", b""], object), b=np.array([b"\xff\x00"], object))
    message.parameters["priority"].int64_param = 3
    message.inputs[0].parameters["binary_data_size"].int64_param = 13
    message.inputs[0].parameters["lang"].string_param = "de"
    message.outputs.add(name="y").parameters["classification"].int64_param = 2
    assert described(message) == {
        "id": "r1",
        "parameters": {"priority": 3},
        "inputs": [
            {
                "name": "t",
                "shape": [2],
                "datatype": "BYTES",
                "parameters": {"lang": "de"},
                "data": ["grün", ""],
            },
            {
                "name": "b",
                "shape": [1],
                "datatype": "BYTES",
                "parameters": {"content_type": "base64"},
                "data": [base64.b64encode(b"\xff\x00").decode()],
            },
        ],
        "outputs": [{"name": "y", "parameters": {"classification": 2}}],
    }


def test_what_is_no_number_in_json_is_null() -> None:
    assert described(infer_request(a=np.array([np.nan, np.inf, 1.0])))["inputs"][0]["data"] == [
        None,
        None,
        1.0,
    ]


def test_what_cannot_be_read_says_which_tensor_and_why() -> None:
    broken = infer_request(good=np.zeros(2), bad=np.zeros(3))
    broken.raw_input_contents[1] = b"123"
    with pytest.raises(
        NotReadable, match=r"input 'bad' has 3 raw bytes, expected 24 for FP64 of shape \[3\]"
    ):
        tensors_of(parse(request(broken.SerializeToString())))
    answer = infer_response(raw=False, y=np.zeros(3))
    answer.outputs[0].shape[:] = [4]
    with pytest.raises(NotReadable, match="output 'y' has 3 elements in fp64_contents, expected 4"):
        tensors_of(parse(response(answer.SerializeToString())))
    with pytest.raises(NotReadable, match=f"no message of {INFER}"):
        parse(request(b"\xff\xff"))
    with pytest.raises(NotReadable, match=r"other\.Service/Call is not"):
        parse(request(b"", method="other.Service/Call"))
    with pytest.raises(NotReadable, match="status UNAVAILABLE"):
        parse(response(None, status="UNAVAILABLE"))


def test_answers_of_streams_are_read() -> None:
    part = pb.ModelStreamInferResponse(infer_response=infer_response(y=np.array([3.0])))
    payload = response(part.SerializeToString(), method=STREAM_INFER, sequence=4)
    (tensor,) = tensors_of(parse(payload))
    assert tensor.array.tolist() == [3.0]
    redacted = Redaction(frozenset({"y"})).apply(payload)
    (tensor,) = tensors_of(parse(redacted))
    assert tensor.array.tolist() == [0.0]


def test_a_record_has_the_members_of_kserve_modelmesh_and_more() -> None:
    metadata = (("x-a", "1"), ("x-a", "2"), ("x-bin", b"\x01"))
    payload = request(b"\x01\x02", metadata=metadata, vmodel_id="v")
    assert json.loads(encode_record(payload)) == {
        "id": "c1",
        "time": "2023-11-14T22:13:20.000000Z",
        "modelid": "m",
        "vModelId": "v",
        "method": INFER,
        "kind": "request",
        "status": "",
        "metadata": {"x-a": "2", "x-bin": "AQ=="},
        "data": "AQI=",
    }
    message = infer_request(x=np.array([1.0]))
    decoded = json.loads(encode_record(request(message.SerializeToString()), decoded=True))
    assert decoded["message"] == described(message)
    assert "data" not in decoded
    assert json.loads(encode_record(payload, decoded=True))["data"] == "AQI="


SECRET = b"4111-1111-1111-1111"


@given(raw=st.booleans(), everything=st.booleans(), number=st.integers(1, 2**31 - 1))
def test_redacted_tensors_are_not_in_the_bytes_and_the_rest_is_as_before(
    raw: bool, everything: bool, number: int
) -> None:
    message = infer_request(
        raw=raw,
        card=np.array([[SECRET], [SECRET * 2]], object),
        age=np.array([number], np.int32),
        x=np.array([1.5]),
    )
    message.inputs[0].parameters["hint"].string_param = SECRET.decode()
    payload = request(message.SerializeToString())
    names = frozenset({"*"} if everything else {"card", "age", "absent"})
    redacted = Redaction(names).apply(payload)
    assert redacted.data is not None
    assert SECRET not in bytes(redacted.data)
    card, age, x = tensors_of(parse(redacted))
    assert (card.array.tolist(), card.datatype) == ([[b""], [b""]], "BYTES")
    assert age.array.tolist() == [0]
    assert x.array.tolist() == [0.0 if everything else 1.5]
    assert (redacted.id, redacted.metadata, redacted.time) == (payload.id, payload.metadata, payload.time)
    assert payload.data == message.SerializeToString()


def test_redacted_headers_keep_their_names() -> None:
    payload = request(metadata=(("authorization", "Bearer s"), ("x-key-bin", b"s"), ("x-a", "1")))
    redacted = Redaction.of((), ["Authorization", "X-Key-Bin"]).apply(payload)
    assert redacted.metadata == (("authorization", "[redacted]"), ("x-key-bin", b"[redacted]"), ("x-a", "1"))
    assert redacted.data == payload.data
    assert {value for _, value in Redaction.of((), "*").apply(payload).metadata} == {
        "[redacted]",
        b"[redacted]",
    }


@pytest.mark.parametrize(
    "payload",
    [request(b"\xff\xff"), request(SECRET, method="other.Service/Call")],
    ids=["broken", "of another method"],
)
def test_what_cannot_be_redacted_is_not_passed_on(payload: Any) -> None:
    with pytest.raises(NotReadable):
        Redaction(frozenset({"card"})).apply(payload)


def test_raw_contents_without_a_tensor_cannot_be_redacted() -> None:
    message = infer_request(card=np.array([SECRET], object))
    message.raw_input_contents.append(SECRET)
    with pytest.raises(NotReadable, match="whose they are cannot be told"):
        Redaction(frozenset({"card"})).apply(request(message.SerializeToString()))
    assert Redaction(frozenset({"card"})).apply(response(None, status="INTERNAL")).data is None
