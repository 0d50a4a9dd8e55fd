"""The one input of models that take a table of numbers."""

from typing import TYPE_CHECKING

from mesh.runtimes.python.model import InvalidInput

if TYPE_CHECKING:
    from mesh.tensors import Array

INPUT = "predict"
"""Its name in metadata, and that of the output, as MLServer has it; requests may call the input anything."""


def read_matrix(inputs: "dict[str, Array]", features: int | None) -> "Array":
    """Takes the only input, rows of numbers.

    Args:
        inputs: of the request.
        features: columns that the model takes; None where it does not say.

    Raises:
        InvalidInput: there is not one input, or it has another shape or no numbers.
    """
    if len(inputs) != 1:
        raise InvalidInput(
            f"the model takes one input of shape [-1, {_columns(features)}]; got {len(inputs)}: {', '.join(inputs)}"
        )
    (name, array), *_ = inputs.items()
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"input {name!r} is BYTES, expected numbers")
    if array.ndim != 2 or (features is not None and array.shape[1] != features):
        raise InvalidInput(
            f"input {name!r} has shape {list(array.shape)}, expected [-1, {_columns(features)}]"
            " (-1 stands for any length)"
        )
    return array


def _columns(features: int | None) -> int:
    return -1 if features is None else features
