"""Payloads as rows of Parquet. docs/payload-sinks.md lists the columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from mesh.payload.messages import NotReadable, parse, tensors_of
from mesh.payload.payload import Payload
from mesh.payload.records import text_metadata
from mesh.payload.sinks.paths import safe_name
from mesh.tensors import Tensor

_COMMON: tuple[tuple[str, Any], ...] = (
    ("id", pa.string()),
    ("time", pa.timestamp("us", tz="UTC")),
    ("kind", pa.string()),
    ("model_id", pa.string()),
    ("vmodel_id", pa.string()),
    ("method", pa.string()),
    ("status", pa.string()),
    ("sequence", pa.int32()),
    ("metadata", pa.map_(pa.string(), pa.string())),
)
_DATA = ("data", pa.binary())
_ELEMENTS = {
    "BOOL": pa.bool_(),
    "INT8": pa.int8(),
    "INT16": pa.int16(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "UINT8": pa.uint8(),
    "UINT16": pa.uint16(),
    "UINT32": pa.uint32(),
    "UINT64": pa.uint64(),
    # Not every reader knows half floats, and nothing is lost.
    "FP16": pa.float32(),
    "BF16": pa.float32(),
    "FP32": pa.float32(),
    "FP64": pa.float64(),
    "BYTES": pa.binary(),
}


@dataclass(frozen=True, slots=True)
class Group:
    """What rows of one file have in common: files of decoded tensors are of one model, and have columns for them.

    Attributes:
        folder: where its files are, under that of the sink; empty where nothing is decoded.
        tensors: names and datatypes of those that have columns.
        data: whether messages have a column.
    """

    folder: str = ""
    tensors: tuple[tuple[str, str], ...] = ()
    data: bool = True

    def schema(self) -> Any:
        """The columns of its files."""
        columns = [*_COMMON, *([_DATA] if self.data else [])]
        for name, datatype in self.tensors:
            columns += [
                (f"tensor_{name}", pa.list_(_ELEMENTS[datatype])),
                (f"shape_{name}", pa.list_(pa.int64())),
            ]
        return pa.schema(columns)


@dataclass(slots=True)
class _Rows:
    payloads: list[Payload] = field(default_factory=list)
    tensors: list[Sequence[Tensor]] = field(default_factory=list)


Batches: TypeAlias = dict[Group, Any]
"""An Arrow record batch for each group."""


def batches_of(payloads: Sequence[Payload], *, decoded: bool, data: bool) -> Batches:
    """Makes rows of payloads. What is in them is copied, so that payloads can go.

    Args:
        payloads: one row for each.
        decoded: with columns for tensors, where a message can be read; the others have ``data`` as if it was not asked
            for.
        data: the messages themselves, too, where they are decoded.
    """
    rows: dict[Group, _Rows] = {}
    for payload in payloads:
        group, tensors = _group(payload, decoded=decoded, data=data)
        mine = rows.setdefault(group, _Rows())
        mine.payloads.append(payload)
        mine.tensors.append(tensors)
    return {group: _batch(group, mine) for group, mine in rows.items()}


def _group(payload: Payload, *, decoded: bool, data: bool) -> tuple[Group, Sequence[Tensor]]:
    if decoded:
        try:
            tensors = tensors_of(parse(payload))
        except NotReadable:
            pass
        else:
            folder = f"{safe_name(payload.model_id)}/{payload.kind}"
            return Group(folder, tuple((one.name, one.datatype) for one in tensors), data), tensors
    return Group(), ()


def _batch(group: Group, rows: _Rows) -> Any:
    payloads = rows.payloads
    values: list[Any] = [
        [payload.id for payload in payloads],
        [round(payload.time * 1e6) for payload in payloads],
        [payload.kind for payload in payloads],
        [payload.model_id for payload in payloads],
        [payload.vmodel_id for payload in payloads],
        [payload.method for payload in payloads],
        [payload.status for payload in payloads],
        [payload.sequence for payload in payloads],
        [list(text_metadata(payload.metadata).items()) for payload in payloads],
    ]
    if group.data:
        values.append([None if payload.data is None else bytes(payload.data) for payload in payloads])
    for index in range(len(group.tensors)):
        arrays = [tensors[index].array for tensors in rows.tensors]
        values.append([_flat(array) for array in arrays])
        values.append([np.array(array.shape, np.int64) for array in arrays])
    schema = group.schema()
    return pa.record_batch(
        [pa.array(column, type=of.type) for column, of in zip(values, schema, strict=True)], schema=schema
    )


def _flat(array: Any) -> Any:
    flat = array.ravel()
    if flat.dtype.kind == "O":
        return flat.tolist()
    return flat.astype(np.float32) if flat.dtype == np.float16 else flat
