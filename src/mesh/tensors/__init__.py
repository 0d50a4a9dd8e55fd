"""Tensors of the Open Inference Protocol as numpy arrays, whoever reads them: a model server or an observer of calls.

Needs numpy, which is no dependency of the mesh itself.
"""

from mesh.tensors.datatypes import (
    BF16,
    BYTES,
    DATATYPES,
    Array,
    Datatype,
    datatype_of,
    from_bfloat16,
    to_bfloat16,
)
from mesh.tensors.reading import Tensor, TensorError, read

__all__ = [
    "BF16",
    "BYTES",
    "DATATYPES",
    "Array",
    "Datatype",
    "Tensor",
    "TensorError",
    "datatype_of",
    "from_bfloat16",
    "read",
    "to_bfloat16",
]
