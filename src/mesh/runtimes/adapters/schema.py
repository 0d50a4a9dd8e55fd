"""A model's inputs and outputs, as the schema file of a KServe predictor tells them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from mesh.runtimes.interface import RuntimeFailure

DATATYPES = frozenset(
    {
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "BF16",
        "BYTES",
    }
)
_ALIASES = {"STRING": "BYTES"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output.

    Attributes:
        name: of the tensor.
        datatype: one of `DATATYPES`.
        shape: -1 for a dimension of any size.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """Inputs and outputs; None where the file does not tell them."""

    inputs: tuple[Tensor, ...] | None = None
    outputs: tuple[Tensor, ...] | None = None


def read_schema(path: Path) -> Schema:
    """Reads a schema file.

    Raises:
        RuntimeFailure: NOT_FOUND or INVALID_ARGUMENT, with the field at fault.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RuntimeFailure(
            grpc.StatusCode.NOT_FOUND, f"Unable to read model schema file {path}: {error.strerror}"
        ) from None
    return parse_schema(content)


def parse_schema(content: bytes) -> Schema:
    """Parses a schema: ``{"inputs": [{"name", "datatype", "shape"}], "outputs": [...]}``.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT, with the field at fault.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _bad(str(error)) from None
    if not isinstance(parsed, dict):
        raise _bad("it is no object")
    return Schema(_tensors(parsed, "inputs"), _tensors(parsed, "outputs"))


def _tensors(schema: Mapping[str, Any], field: str) -> tuple[Tensor, ...] | None:
    entries = schema.get(field)
    if entries is None:
        return None
    if not isinstance(entries, list):
        raise _bad(f"'{field}' must be an array")
    return tuple(_tensor(entry, f"{field}[{index}]") for index, entry in enumerate(entries))


def _tensor(entry: object, where: str) -> Tensor:
    if not isinstance(entry, dict):
        raise _bad(f"'{where}' must be an object")
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not isinstance(name, str) or not name:
        raise _bad(f"'{where}.name' must be a string")
    known = _ALIASES.get(datatype, datatype) if isinstance(datatype, str) else None
    if known not in DATATYPES:
        raise _bad(f"'{where}.datatype' is {datatype!r}; it must be one of {', '.join(sorted(DATATYPES))}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= -1 for size in shape):
        raise _bad(f"'{where}.shape' must be an array of whole numbers, -1 for any size")
    return Tensor(name, known, tuple(shape))


def _bad(why: str) -> RuntimeFailure:
    return RuntimeFailure(grpc.StatusCode.INVALID_ARGUMENT, f"Unable to parse model schema JSON: {why}")
