"""Tensors of the Open Inference Protocol to and from numpy arrays."""

import math
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from mesh.protos import inference_pb2 as pb
from mesh.runtimes.python.datatypes import (
    BF16,
    BYTES,
    DATATYPES,
    Array,
    Datatype,
    datatype_of,
    from_bfloat16,
    to_bfloat16,
)
from mesh.runtimes.python.model import InvalidInput, Parameter, TensorSpec

_LENGTH = struct.Struct("<I")
_CONTENTS = tuple(dict.fromkeys(datatype.contents for datatype in DATATYPES.values() if datatype.contents))


def read_inputs(request: pb.ModelInferRequest) -> dict[str, Array]:
    """Reads the inputs of a request, raw or typed.

    Arrays of raw inputs share its memory and cannot be written. BYTES become arrays of ``bytes``, BF16
    becomes float32.

    Raises:
        InvalidInput: naming the tensor, what was got and what was expected.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} elements, expected {len(request.inputs)}: one for each input"
        )
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise InvalidInput(f"input {tensor.name!r} is given twice")
        if raw and tensor.HasField("contents"):
            raise InvalidInput(
                f"input {tensor.name!r} has contents beside raw_input_contents; use one of them for all"
            )
        arrays[tensor.name] = _read_raw(tensor, raw[index]) if raw else _read_typed(tensor)
    return arrays


def read_parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    """Reads the parameters of a request; those without a value are left out."""
    values = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None:
            values[name] = getattr(parameter, kind)
    return values


def check_inputs(request: pb.ModelInferRequest, expected: Sequence[TensorSpec]) -> None:
    """Compares names, datatypes and shapes with what the model takes.

    Raises:
        InvalidInput: naming the tensor, what was got and what was expected.
    """
    specs = {spec.name: spec for spec in expected}
    given = {tensor.name for tensor in request.inputs}
    for tensor in request.inputs:
        spec = specs.get(tensor.name)
        if spec is None:
            raise InvalidInput(f"input {tensor.name!r} is unknown; the model takes {_names(specs)}")
        if tensor.datatype != spec.datatype:
            raise InvalidInput(f"input {tensor.name!r} is {tensor.datatype}, expected {spec.datatype}")
        if not _fits(tensor.shape, spec.shape):
            raise InvalidInput(
                f"input {tensor.name!r} has shape {list(tensor.shape)}, expected {list(spec.shape)}"
                " (-1 stands for any length)"
            )
    if missing := [name for name in specs if name not in given]:
        raise InvalidInput(f"input {missing[0]!r} is missing; the model takes {_names(specs)}")


def write_outputs(
    outputs: Mapping[str, Array],
    response: pb.ModelInferResponse,
    *,
    raw: bool,
    datatypes: Mapping[str, str] | None = None,
) -> None:
    """Appends output tensors to a response.

    Args:
        outputs: arrays by name, in order; arrays of ``str`` are sent as UTF-8.
        response: to be filled.
        raw: as bytes, else typed. FP16 and BF16 make all of them raw, since they cannot be typed.
        datatypes: the declared ones by name. Only BF16 counts: numpy cannot tell it.

    Raises:
        TypeError: an output is of a type that the protocol cannot carry.
    """
    declared = datatypes or {}
    tensors = []
    for name, value in outputs.items():
        array = np.asarray(value)
        datatype = datatype_of(array)
        if datatype is None:
            raise TypeError(
                f"output {name!r} is an array of {array.dtype}, which is no datatype of the protocol"
            )
        if declared.get(name) == BF16.name and datatype.name == "FP32":
            datatype = BF16
        tensors.append((name, array, datatype))
    raw = raw or any(not datatype.contents for _, _, datatype in tensors)
    for name, array, datatype in tensors:
        tensor = response.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
        if raw:
            response.raw_output_contents.append(_raw_bytes(name, array, datatype))
        else:
            elements = _elements(name, array) if datatype is BYTES else array.ravel().tolist()
            getattr(tensor.contents, datatype.contents).extend(elements)


def _read_raw(tensor: pb.ModelInferRequest.InferInputTensor, data: bytes) -> Array:
    datatype, count = _layout(tensor)
    if datatype is BYTES:
        return _object_array(_split(tensor.name, data, count), tensor.shape)
    expected = count * datatype.wire.itemsize
    if len(data) != expected:
        raise InvalidInput(
            f"input {tensor.name!r} has {len(data)} raw bytes, expected {expected} for {_describe(tensor)}"
        )
    array = np.frombuffer(data, datatype.wire)
    return (from_bfloat16(array) if datatype is BF16 else array).reshape(tensor.shape)


def _read_typed(tensor: pb.ModelInferRequest.InferInputTensor) -> Array:
    datatype, count = _layout(tensor)
    if not datatype.contents:
        raise InvalidInput(f"input {tensor.name!r} is {datatype.name}: send it in raw_input_contents")
    elements = getattr(tensor.contents, datatype.contents)
    if len(elements) != count:
        others = [f"{name} has {n}" for name in _CONTENTS if (n := len(getattr(tensor.contents, name)))]
        raise InvalidInput(
            f"input {tensor.name!r} has {len(elements)} elements in {datatype.contents},"
            f" expected {count} for {_describe(tensor)}" + (f"; {', '.join(others)}" if others else "")
        )
    if datatype is BYTES:
        return _object_array(elements, tensor.shape)
    wide = np.dtype("<i8") if datatype.contents == "int_contents" else datatype.dtype
    wide = np.dtype("<u8") if datatype.contents == "uint_contents" else wide
    array = np.fromiter(elements, wide, count)
    if wide != datatype.dtype and count:
        limits = np.iinfo(datatype.dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise InvalidInput(
                f"input {tensor.name!r} is {datatype.name} but not all of {limits.min} to {limits.max}"
            )
    return array.astype(datatype.dtype, copy=False).reshape(tensor.shape)


def _layout(tensor: pb.ModelInferRequest.InferInputTensor) -> tuple[Datatype, int]:
    datatype = DATATYPES.get(tensor.datatype)
    if datatype is None:
        raise InvalidInput(
            f"input {tensor.name!r} has datatype {tensor.datatype!r}, expected one of {', '.join(DATATYPES)}"
        )
    if any(length < 0 for length in tensor.shape):
        raise InvalidInput(
            f"input {tensor.name!r} has shape {list(tensor.shape)}, expected no negative length"
        )
    return datatype, math.prod(tensor.shape)


def _split(name: str, data: bytes, count: int) -> list[bytes]:
    elements: list[bytes] = []
    offset = 0
    while offset < len(data) and len(elements) < count:
        start = offset + _LENGTH.size
        if start > len(data):
            break
        end = start + _LENGTH.unpack_from(data, offset)[0]
        if end > len(data):
            break
        elements.append(data[start:end])
        offset = end
    if len(elements) != count or offset != len(data):
        raise InvalidInput(
            f"input {name!r} has {len(elements)} whole BYTES elements in {offset} of {len(data)} raw bytes,"
            f" expected {count}, each after its length in four bytes"
        )
    return elements


def _object_array(elements: Sequence[bytes], shape: Sequence[int]) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def _raw_bytes(name: str, array: Array, datatype: Datatype) -> bytes:
    if datatype is BYTES:
        return b"".join(_LENGTH.pack(len(element)) + element for element in _elements(name, array))
    bits = to_bfloat16(array) if datatype is BF16 else array
    return bits.astype(datatype.wire, copy=False).tobytes()


def _elements(name: str, array: Array) -> list[bytes]:
    elements: list[bytes] = []
    for element in array.ravel().tolist():
        if isinstance(element, str):
            elements.append(element.encode())
        elif isinstance(element, bytes):
            elements.append(element)
        else:
            raise TypeError(
                f"output {name!r} has an element of type {type(element).__name__}, expected str or bytes"
            )
    return elements


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    return len(shape) == len(expected) and all(
        want in (-1, got) for got, want in zip(shape, expected, strict=True)
    )


def _describe(tensor: pb.ModelInferRequest.InferInputTensor) -> str:
    return f"{tensor.datatype} of shape {list(tensor.shape)}"


def _names(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{name!r}" for name in specs) or "no inputs"
