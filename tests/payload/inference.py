"""Payloads of the Open Inference Protocol for tests of what reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mesh.payload import PlainPayload
from mesh.protos import inference_pb2 as pb
from mesh.runtimes.python.tensors import write_outputs
from mesh.tensors import Array
from tests.payload.parts import request, response


def infer_request(
    *, raw: bool = True, datatypes: dict[str, str] | None = None, **tensors: Any
) -> pb.ModelInferRequest:
    """A request with inputs."""
    answer = infer_response(raw=raw, datatypes=datatypes, **tensors)
    message = pb.ModelInferRequest(model_name="m", id="r1", raw_input_contents=answer.raw_output_contents)
    for output in answer.outputs:
        message.inputs.add().MergeFromString(output.SerializeToString())
    return message


def infer_response(
    *, raw: bool = True, datatypes: dict[str, str] | None = None, **tensors: Any
) -> pb.ModelInferResponse:
    """A response with outputs."""
    message = pb.ModelInferResponse(model_name="m", model_version="1", id="r1")
    write_outputs(
        {name: np.asarray(value) for name, value in tensors.items()}, message, raw=raw, datatypes=datatypes
    )
    return message


def call(
    number: int, x: Array | Sequence[Any], y: Array | Sequence[Any] = (0.5,), **attributes: Any
) -> list[PlainPayload]:
    """Request and response of a call with one input and one output."""
    return [
        request(infer_request(x=x).SerializeToString(), id=f"c{number}", **attributes),
        response(infer_response(y=y).SerializeToString(), id=f"c{number}", **attributes),
    ]
