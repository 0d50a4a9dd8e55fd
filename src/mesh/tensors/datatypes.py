"""The datatypes of the Open Inference Protocol and what they are in numpy."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype.

    Attributes:
        name: as the protocol writes it.
        dtype: of the array that user code sees, little-endian.
        wire: of an element on the wire; BF16 is no type of numpy's.
        contents: field of ``InferTensorContents`` that holds it; empty where it can only be sent raw.
    """

    name: str
    dtype: np.dtype[Any]
    wire: np.dtype[Any]
    contents: str


def _datatype(name: str, code: str, contents: str, wire: str | None = None) -> Datatype:
    return Datatype(name, np.dtype(code), np.dtype(wire or code), contents)


BYTES: Final = _datatype("BYTES", "O", "bytes_contents")
BF16: Final = _datatype("BF16", "<f4", "", "<u2")

DATATYPES: Final = {
    datatype.name: datatype
    for datatype in (
        _datatype("BOOL", "?", "bool_contents"),
        _datatype("INT8", "i1", "int_contents"),
        _datatype("INT16", "<i2", "int_contents"),
        _datatype("INT32", "<i4", "int_contents"),
        _datatype("INT64", "<i8", "int64_contents"),
        _datatype("UINT8", "u1", "uint_contents"),
        _datatype("UINT16", "<u2", "uint_contents"),
        _datatype("UINT32", "<u4", "uint_contents"),
        _datatype("UINT64", "<u8", "uint64_contents"),
        _datatype("FP16", "<f2", ""),
        _datatype("FP32", "<f4", "fp32_contents"),
        _datatype("FP64", "<f8", "fp64_contents"),
        BF16,
        BYTES,
    )
}

_BY_DTYPE: Final = {datatype.dtype: datatype for datatype in DATATYPES.values() if datatype is not BF16}


def datatype_of(array: Array) -> Datatype | None:
    """Returns: the datatype that an array is sent as; None where the protocol has none for it."""
    if array.dtype.kind in "SU":
        return BYTES
    return _BY_DTYPE.get(array.dtype.newbyteorder("<"))


def to_bfloat16(array: Array) -> Array:
    """Rounds float32 to the nearest bfloat16, ties to even, as bits."""
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    rounded = (bits + (((bits >> 16) & 1) + 0x7FFF).astype("<u4")) >> 16
    # Rounding could carry a NaN's few set bits away, which would make it infinite.
    return np.where(np.isnan(array), (bits >> 16) | 0x40, rounded).astype("<u2")


def from_bfloat16(bits: Array) -> Array:
    """Widens bfloat16, given as bits, to float32: exact."""
    return (bits.astype("<u4") << 16).view("<f4")
