"""References in files: those that people give, and those that were learnt."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mesh.payload.messages import NotReadable
from mesh.payload.monitors.features import Columns, columns_of, joined
from mesh.tensors import Array, Tensor

#: How the Parquet sink names the columns of a tensor's elements and of its shape.
_ELEMENTS, _SHAPE = "tensor_", "shape_"


def load(path: Path, categorical: Iterable[str], most: int) -> Columns:
    """Reads the rows of a reference.

    ``.npz`` has an array for each tensor; ``.json`` an object with lists, or a list of objects, one for each row;
    ``.parquet`` a column for each feature, a column of lists for each tensor, or what the Parquet sink writes of
    decoded tensors.

    Args:
        path: of the file.
        categorical: as in `columns_of`.
        most: as in `columns_of`.

    Raises:
        ValueError: it is none of these, or not as it should be; the message names the path.
        OSError: it cannot be read.
    """
    readers = {".npz": _read_npz, ".json": _read_json, ".parquet": _read_parquet}
    reader = readers.get(path.suffix)
    if reader is None:
        raise ValueError(f"reference {path}: must be one of {', '.join(readers)}")
    try:
        messages = [columns_of(tensors, categorical, most=most) for tensors in reader(path)]
    except (ValueError, TypeError, KeyError, ImportError) as error:
        raise ValueError(f"reference {path}: {error}") from error
    return joined(messages)


def save(path: Path, columns: Columns) -> None:
    """Writes the rows of a reference as JSON that `load` reads, in one step, so that nobody reads a half."""
    value = {
        name: [None if isinstance(one, float) and math.isnan(one) else one for one in values.tolist()]
        for name, values in columns.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(value))
    part.replace(path)


def _read_npz(path: Path) -> list[list[Tensor]]:
    with np.load(path, allow_pickle=False) as arrays:
        return [[_tensor(name, arrays[name]) for name in arrays.files]]


def _read_json(path: Path) -> list[list[Tensor]]:
    value = json.loads(path.read_text())
    if isinstance(value, list):
        names = dict.fromkeys(name for row in value for name in row)
        value = {name: [row.get(name) for row in value] for name in names}
    if not isinstance(value, dict) or not all(isinstance(rows, list) for rows in value.values()):
        raise NotReadable("must be an object of lists, or a list of objects")
    return [[_tensor(name, _array(rows)) for name, rows in value.items()]]


def _read_parquet(path: Path) -> list[list[Tensor]]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns: Mapping[str, list[Any]] = {name: table.column(name).to_pylist() for name in table.column_names}
    written = [name.removeprefix(_SHAPE) for name in columns if name.startswith(_SHAPE)]
    if not written:
        return [[_tensor(name, _array(rows)) for name, rows in columns.items()]]
    return [
        [
            _tensor(name, _array(columns[_ELEMENTS + name][row]).reshape(columns[_SHAPE + name][row]))
            for name in written
        ]
        for row in range(table.num_rows)
    ]


def _array(rows: list[Any]) -> Array:
    if any(isinstance(row, str | bytes) for row in rows):
        array = np.empty(len(rows), object)
        array[:] = ["" if row is None else row for row in rows]
        return array
    if any(isinstance(row, bool) for row in rows):
        return np.array(rows, bool)
    return np.array(rows, np.float64)


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype.kind not in "OSUbiuf":
        raise NotReadable(f"{name!r} is an array of {array.dtype}, which is no datatype of the protocol")
    return Tensor(name, "", array)
