"""Reads the tensors of a message, raw or typed."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mesh.protos import inference_pb2 as pb
from mesh.tensors.datatypes import BF16, BYTES, DATATYPES, Array, Datatype, from_bfloat16

_Sent: TypeAlias = pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor

_LENGTH = struct.Struct("<I")
_CONTENTS = tuple(dict.fromkeys(datatype.contents for datatype in DATATYPES.values() if datatype.contents))


class TensorError(ValueError):
    """Tensors of a message are not as the protocol says. The message names the tensor, what was got and expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One input or output of a call.

    Attributes:
        name: as the message writes it.
        datatype: of the Open Inference Protocol, such as ``FP32``.
        array: elements in the tensor's shape; of raw contents it shares their memory and cannot be written. BYTES are
            objects of ``bytes``, BF16 is float32.
    """

    name: str
    datatype: str
    array: Array


def read(sent: Sequence[_Sent], raw: Sequence[bytes], side: str) -> list[Tensor]:
    """Reads all tensors of one side of a call.

    Args:
        sent: ``inputs`` of a request, or ``outputs`` of a response.
        raw: its ``raw_input_contents``, or ``raw_output_contents``.
        side: ``input`` or ``output``, for messages.

    Raises:
        TensorError: naming the tensor, what was got and what was expected.
    """
    if raw and len(raw) != len(sent):
        raise TensorError(
            f"raw_{side}_contents has {len(raw)} elements, expected {len(sent)}: one for each {side}"
        )
    tensors: dict[str, Tensor] = {}
    for index, one in enumerate(sent):
        what = f"{side} {one.name!r}"
        if one.name in tensors:
            raise TensorError(f"{what} is given twice")
        if raw and one.HasField("contents"):
            raise TensorError(f"{what} has contents beside raw_{side}_contents; use one of them for all")
        array = _read_raw(what, one, raw[index]) if raw else _read_typed(what, one, side)
        tensors[one.name] = Tensor(one.name, one.datatype, array)
    return list(tensors.values())


def _read_raw(what: str, tensor: _Sent, data: bytes) -> Array:
    datatype, count = _layout(what, tensor)
    if datatype is BYTES:
        return _object_array(_split(what, data, count), tensor.shape)
    expected = count * datatype.wire.itemsize
    if len(data) != expected:
        raise TensorError(f"{what} has {len(data)} raw bytes, expected {expected} for {_describe(tensor)}")
    array = np.frombuffer(data, datatype.wire)
    return (from_bfloat16(array) if datatype is BF16 else array).reshape(tensor.shape)


def _read_typed(what: str, tensor: _Sent, side: str) -> Array:
    datatype, count = _layout(what, tensor)
    if not datatype.contents:
        raise TensorError(f"{what} is {datatype.name}: send it in raw_{side}_contents")
    elements = getattr(tensor.contents, datatype.contents)
    if len(elements) != count:
        others = [f"{name} has {n}" for name in _CONTENTS if (n := len(getattr(tensor.contents, name)))]
        raise TensorError(
            f"{what} has {len(elements)} elements in {datatype.contents},"
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
            raise TensorError(f"{what} is {datatype.name} but not all of {limits.min} to {limits.max}")
    return array.astype(datatype.dtype, copy=False).reshape(tensor.shape)


def _layout(what: str, tensor: _Sent) -> tuple[Datatype, int]:
    datatype = DATATYPES.get(tensor.datatype)
    if datatype is None:
        raise TensorError(f"{what} has datatype {tensor.datatype!r}, expected one of {', '.join(DATATYPES)}")
    if any(length < 0 for length in tensor.shape):
        raise TensorError(f"{what} has shape {list(tensor.shape)}, expected no negative length")
    return datatype, math.prod(tensor.shape)


def _split(what: str, data: bytes, count: int) -> list[bytes]:
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
        raise TensorError(
            f"{what} has {len(elements)} whole BYTES elements in {offset} of {len(data)} raw bytes,"
            f" expected {count}, each after its length in four bytes"
        )
    return elements


def _object_array(elements: Sequence[bytes], shape: Sequence[int]) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def _describe(tensor: _Sent) -> str:
    return f"{tensor.datatype} of shape {list(tensor.shape)}"
