"""Tensors of the Open Inference Protocol to and from numpy arrays."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np

from mesh.protos import inference_pb2 as pb
from mesh.runtimes.python.model import InvalidInput, Parameter, TensorSpec
from mesh.tensors import BF16, BYTES, Array, Datatype, TensorError, datatype_of, read, to_bfloat16

_LENGTH = struct.Struct("<I")


def read_inputs(request: pb.ModelInferRequest) -> dict[str, Array]:
    """Reads the inputs of a request, raw or typed.

    Arrays of raw inputs share its memory and cannot be written. BYTES become arrays of ``bytes``, BF16
    becomes float32.

    Raises:
        InvalidInput: naming the tensor, what was got and what was expected.
    """
    try:
        tensors = read(request.inputs, request.raw_input_contents, "input")
    except TensorError as error:
        raise InvalidInput(str(error)) from None
    return {tensor.name: tensor.array for tensor in tensors}


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


def _names(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{name!r}" for name in specs) or "no inputs"
