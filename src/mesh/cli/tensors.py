"""Requests and answers of the Open Inference Protocol, from and to JSON as its REST form has it."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mesh.protos import inference_pb2

#: The field of ``InferTensorContents`` that holds a datatype. FP16 and BF16 have none.
_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
#: How `struct` reads one little-endian element of raw contents.
_RAW_FORMATS = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}

Value = bool | int | float | str


class InputError(ValueError):
    """An input cannot be made into a request. The message names the member and the remedy."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One output, its elements in row-major order. BYTES elements are text where they are UTF-8."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: tuple[Value, ...]

    def first_row(self) -> tuple[Value, ...]:
        """The elements that belong to the first row of a batch."""
        return self.data[: max(1, math.prod(self.shape[1:]))]


def request_from_json(
    model_id: str, value: Any, *, name: str = "input", datatype: str = "FP32"
) -> inference_pb2.ModelInferRequest:
    """Makes a request of what a person gives.

    Args:
        model_id: also sent as the request's model name.
        value: ``{"inputs": [{"name", "datatype", "shape", "data"}, ...]}``, or a (nested) list of numbers,
            which stands for one tensor.
        name: of the tensor that a list stands for.
        datatype: of the same.

    Raises:
        InputError: it is neither, or a tensor's data does not fit its datatype or shape.
    """
    if isinstance(value, list):
        data, shape = _flat(value, "input")
        shape = shape if len(shape) > 1 else [1, *shape]
        value = {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), list) or not value["inputs"]:
        raise InputError(
            'the input must be a list of numbers or {"inputs": [{"name", "datatype", "shape", "data"}]}'
        )
    request = inference_pb2.ModelInferRequest(model_name=model_id)
    for index, tensor in enumerate(value["inputs"]):
        where = f"inputs[{index}]"
        if not isinstance(tensor, dict) or "data" not in tensor:
            raise InputError(f"{where}: must be an object with name, datatype, shape and data")
        data, shape = _flat(tensor["data"], f"{where}.data")
        _add_input(request, where, tensor, data, tensor.get("shape", shape))
    return request


def outputs_of(response: inference_pb2.ModelInferResponse) -> list[Tensor]:
    """The outputs, whichever way the model server sent their contents.

    Raises:
        InputError: an output has a datatype that is not of the protocol, or raw contents of a wrong length.
    """
    tensors = []
    for index, output in enumerate(response.outputs):
        data: Sequence[Value]
        if index < len(response.raw_output_contents):
            data = _from_raw(output.name, output.datatype, response.raw_output_contents[index])
        elif output.datatype in _FIELDS:
            data = [_text(element) for element in getattr(output.contents, _FIELDS[output.datatype])]
        else:
            raise InputError(f"output {output.name!r} has the unknown datatype {output.datatype!r}")
        tensors.append(Tensor(output.name, output.datatype, tuple(output.shape), tuple(data)))
    return tensors


def tensors_to_json(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Outputs as the REST form of the protocol has them."""
    return [
        {"name": one.name, "datatype": one.datatype, "shape": list(one.shape), "data": list(one.data)}
        for one in tensors
    ]


def label_of(tensors: Sequence[Tensor], labels: Sequence[str]) -> str | None:
    """Reads a classifier's answer for its first row.

    Model servers answer in several ways: with the class (its number or its label), with a score for each
    class, or, where there are two, with the probability of the second.

    Returns: one of ``labels``, or None where no output can be read so.
    """
    for tensor in tensors:
        row = tensor.first_row()
        if len(row) == len(labels) > 1 and all(isinstance(score, int | float) for score in row):
            return labels[max(range(len(row)), key=lambda index: float(row[index]))]
        if len(row) != 1:
            continue
        value = row[0]
        if isinstance(value, str):
            if value in labels:
                return value
        elif float(value).is_integer() and 0 <= value < len(labels):
            return labels[int(value)]
        elif len(labels) == 2 and 0 <= value <= 1:
            return labels[round(value)]
    return None


def _add_input(
    request: inference_pb2.ModelInferRequest,
    where: str,
    tensor: dict[str, Any],
    data: list[Any],
    shape: list[int],
) -> None:
    datatype = tensor.get("datatype", "FP32")
    field = _FIELDS.get(datatype)
    if field is None:
        raise InputError(f"{where}.datatype: {datatype!r} is not one of {', '.join(_FIELDS)}")
    if math.prod(shape) != len(data):
        raise InputError(f"{where}.shape: {shape} holds {math.prod(shape)} elements, data has {len(data)}")
    if datatype == "BYTES":
        data = [element.encode() if isinstance(element, str) else element for element in data]
    added = request.inputs.add(
        name=tensor.get("name", f"input-{len(request.inputs)}"), datatype=datatype, shape=shape
    )
    try:
        getattr(added.contents, field).extend(data)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}.data: not all elements are {datatype}: {error}") from None


def _flat(data: Any, where: str) -> tuple[list[Any], list[int]]:
    """Flattens nested lists, which must be rectangular.

    Returns: the elements and the shape.
    """
    if not isinstance(data, list):
        raise InputError(f"{where}: must be a list, got {type(data).__name__}")
    if not data or not isinstance(data[0], list):
        if any(isinstance(element, list) for element in data):
            raise InputError(f"{where}: lists and elements are mixed")
        return data, [len(data)]
    rows = [_flat(row, where) for row in data]
    if any(shape != rows[0][1] for _, shape in rows):
        raise InputError(f"{where}: its rows differ in length")
    return [element for row, _ in rows for element in row], [len(rows), *rows[0][1]]


def _from_raw(name: str, datatype: str, raw: bytes) -> list[Value]:
    if datatype == "BYTES":
        elements: list[Value] = []
        position = 0
        while position < len(raw):
            start = position + 4
            position = start + int.from_bytes(raw[position:start], "little")
            if position > len(raw):
                raise InputError(f"output {name!r}: an element reaches beyond the end of its raw contents")
            elements.append(_text(raw[start:position]))
        return elements
    if datatype not in _RAW_FORMATS:
        raise InputError(f"output {name!r} has the unknown datatype {datatype!r}")
    form = _RAW_FORMATS[datatype]
    number, rest = divmod(len(raw), struct.calcsize(f"<{form}"))
    if rest:
        raise InputError(f"output {name!r} has {len(raw)} raw bytes, which is no whole number of {datatype}")
    return list(struct.unpack(f"<{number}{form}", raw))


def _text(element: Any) -> Value:
    if isinstance(element, bytes):
        return element.decode("utf-8", errors="backslashreplace")
    assert isinstance(element, bool | int | float | str)  # noqa: S101 - fields of a proto are nothing else
    return element
