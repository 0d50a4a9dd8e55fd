"""Features: what is watched of the tensors of a call, one value for each of its rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from mesh.payload.messages import NotReadable
from mesh.tensors import Array, Tensor

Columns: TypeAlias = dict[str, Array]
"""Values of each feature, a row at each index: float64 with NaN for none, or objects of ``str`` for categories."""


def columns_of(tensors: Sequence[Tensor], categorical: Iterable[str] = (), *, most: int = 256) -> Columns:
    """Takes the tensors of a message apart into features.

    The first dimension counts rows. An element of a row is a feature: ``x`` where it is the only one of its tensor,
    else ``x[2]`` or ``x[2,0]``. BYTES and BOOL are categories, and so is what is named as such.

    Args:
        tensors: of one message.
        categorical: names of tensors, or of features, whose numbers are categories.
        most: elements of a row of one tensor that are watched one by one. A tensor with more, such as an image, is
            watched by their mean, standard deviation, smallest and largest: ``x.mean``, ``x.deviation``...

    Raises:
        NotReadable: tensors differ in their number of rows.
    """
    named = frozenset(categorical)
    columns: Columns = {}
    rows: int | None = None
    for tensor in tensors:
        array = tensor.array if tensor.array.ndim else tensor.array.reshape(1)
        if rows is not None and len(array) != rows:
            raise NotReadable(
                f"tensor {tensor.name!r} has {len(array)} rows, and {tensors[0].name!r} has {rows}: its first "
                "dimension must count rows"
            )
        rows = len(array)
        width = int(np.prod(array.shape[1:], dtype=int))
        matrix = array.reshape(rows, width)
        category = array.dtype.kind in "OSUb"
        if width > most:
            if not category and rows:
                columns |= _summary(tensor.name, matrix)
            continue
        for index, name in enumerate(_names(tensor.name, array.shape[1:])):
            values = matrix[:, index]
            columns[name] = (
                _categories(values)
                if category or not named.isdisjoint((tensor.name, name))
                else _numbers(values)
            )
    return columns


def stacked(messages: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Puts the rows of messages that are alike one below the other, so that many small ones cost as few large ones.

    Args:
        messages: tensors of each, in order.

    Returns: the same rows in the same order, in as few messages as may be.
    """
    runs: list[list[list[Tensor]]] = []
    kinds: list[object] = []
    for tensors in messages:
        kind = [
            (tensor.name, tensor.datatype, tensor.array.shape[1:], tensor.array.ndim) for tensor in tensors
        ]
        # Those that `columns_of` refuses are left alone, so that they alone are refused.
        alike = len({len(tensor.array) if tensor.array.ndim else -1 for tensor in tensors}) == 1
        if runs and alike and kind and kind[0][3] and kinds[-1] == kind:
            runs[-1].append(list(tensors))
        else:
            runs.append([list(tensors)])
            kinds.append(kind if alike else None)
    return [
        run[0]
        if len(run) == 1
        else [
            Tensor(first.name, first.datatype, np.concatenate([tensors[index].array for tensors in run]))
            for index, first in enumerate(run[0])
        ]
        for run in runs
    ]


def joined(parts: Sequence[Mapping[str, Array]]) -> Columns:
    """Rows after rows, of the features that all of them have."""
    names = [name for name in parts[0] if all(name in part for part in parts)] if parts else []
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def split(columns: Mapping[str, Array], rows: int) -> tuple[Columns, Columns]:
    """The first so many rows, and the others."""
    return (
        {name: values[:rows] for name, values in columns.items()},
        {name: values[rows:] for name, values in columns.items()},
    )


def count_rows(columns: Mapping[str, Array]) -> int:
    """How many rows there are."""
    return len(next(iter(columns.values()))) if columns else 0


def category(value: object) -> str:
    """The name of a category."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return f"{value:g}"
    return str(value)


def _summary(name: str, matrix: Array) -> Columns:
    numbers = matrix.astype(np.float64)
    return {
        f"{name}.mean": numbers.mean(axis=1),
        f"{name}.deviation": numbers.std(axis=1),
        f"{name}.smallest": numbers.min(axis=1),
        f"{name}.largest": numbers.max(axis=1),
    }


def _names(name: str, shape: Sequence[int]) -> list[str]:
    if all(length == 1 for length in shape):
        return [name]
    return [f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*shape)]


def _numbers(values: Array) -> Array:
    return values.astype(np.float64)


def _categories(values: Array) -> Array:
    names = np.empty(len(values), object)
    names[:] = [category(value) for value in values.tolist()]
    return names
