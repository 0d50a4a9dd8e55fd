"""Messages of the Open Inference Protocol in payloads: their tensors, and their form in JSON."""

import base64
from collections.abc import Mapping, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from mesh.payload.payload import Payload
from mesh.protos import inference_pb2 as pb

if TYPE_CHECKING:
    from mesh.tensors import Tensor

#: The methods whose messages have tensors.
INFER = "inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "inference.GRPCInferenceService/ModelStreamInfer"

Message: TypeAlias = pb.ModelInferRequest | pb.ModelInferResponse
Sent: TypeAlias = pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor


class NotReadable(ValueError):
    """A payload has no tensors that could be read. The message names the method or the tensor, and what is wrong."""


def parse(payload: Payload) -> Message:
    """Reads the message of a payload.

    Raises:
        NotReadable: it is of another method, has no message, or is none of the protocol.
    """
    return parse_whole(payload)[1]


def parse_whole(payload: Payload) -> tuple[ProtoMessage, Message]:
    """Reads the message of a payload, and that in it which has tensors: part of it in the response of a stream.

    Raises:
        NotReadable: as `parse`.
    """
    if payload.method not in (INFER, STREAM_INFER):
        raise NotReadable(f"{payload.method} is not {INFER}, whose messages have tensors")
    data = payload.data
    if data is None:
        raise NotReadable(f"the {payload.kind} has no message (status {payload.status})")
    try:
        if payload.kind == "request":
            request = pb.ModelInferRequest.FromString(bytes(data))
            return request, request
        if payload.method == STREAM_INFER:
            part = pb.ModelStreamInferResponse.FromString(bytes(data))
            return part, part.infer_response
        response = pb.ModelInferResponse.FromString(bytes(data))
    except DecodeError as error:
        raise NotReadable(f"the {payload.kind} is no message of {payload.method}: {error}") from None
    return response, response


def sent_in(message: Message) -> tuple[Sequence[Sent], MutableSequence[bytes]]:
    """The tensors of a message as they were sent, and the raw contents of all."""
    if isinstance(message, pb.ModelInferRequest):
        return message.inputs, message.raw_input_contents
    return message.outputs, message.raw_output_contents


def tensors_of(message: Message) -> "list[Tensor]":
    """Reads the inputs of a request, or the outputs of a response; needs numpy.

    Raises:
        NotReadable: naming the tensor, what was got and what was expected.
    """
    from mesh.tensors import TensorError, read

    sent, raw = sent_in(message)
    try:
        return read(sent, raw, "input" if isinstance(message, pb.ModelInferRequest) else "output")
    except TensorError as error:
        raise NotReadable(str(error)) from None


def to_json(message: Message) -> dict[str, Any]:
    """The message as the protocol's REST form has it, with the data of all tensors in it; needs numpy.

    BYTES are texts where all of a tensor are UTF-8; else they are base64, and the tensor's parameter ``content_type``
    says so, as MLServer has it. FP16 and BF16 are numbers.

    Raises:
        NotReadable: a tensor is not as the protocol says.
    """
    value: dict[str, Any] = {}
    if isinstance(message, pb.ModelInferResponse):
        value["model_name"] = message.model_name
        if message.model_version:
            value["model_version"] = message.model_version
    if message.id:
        value["id"] = message.id
    if message.parameters:
        value["parameters"] = _parameters(message.parameters)
    tensors = [
        _tensor(tensor, one.parameters)
        for tensor, one in zip(tensors_of(message), sent_in(message)[0], strict=True)
    ]
    value["inputs" if isinstance(message, pb.ModelInferRequest) else "outputs"] = tensors
    if isinstance(message, pb.ModelInferRequest) and message.outputs:
        value["outputs"] = [
            {"name": one.name} | ({"parameters": _parameters(one.parameters)} if one.parameters else {})
            for one in message.outputs
        ]
    return value


def _tensor(tensor: "Tensor", sent: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    parameters = _parameters(sent)
    # They tell how contents were sent beside JSON, and here they are in it.
    parameters.pop("binary_data_size", None)
    data = tensor.array.ravel().tolist()
    if tensor.datatype == "BYTES":
        try:
            data = [element.decode() for element in data]
        except UnicodeDecodeError:
            data = [base64.b64encode(element).decode() for element in data]
            parameters["content_type"] = "base64"
    value: dict[str, Any] = {
        "name": tensor.name,
        "shape": list(tensor.array.shape),
        "datatype": tensor.datatype,
    }
    if parameters:
        value["parameters"] = parameters
    value["data"] = data
    return value


def _parameters(sent: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    values = {}
    for name, parameter in sent.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None:
            values[name] = getattr(parameter, kind)
    return values
