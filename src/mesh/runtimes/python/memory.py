"""How much memory a model takes: measured around its load, one load at a time.

Counted are the bytes in use in glibc's heaps (numpy's and native libraries' buffers) and in Python's own
allocator, and files that the load has mapped, such as weights that a library reads in place. On a quiet
server that is exact to some kilobytes. What it does not see:

- memory that is got past malloc, as jemalloc or CUDA do. Where the process has grown by much more than was
  counted, the growth is taken instead, which is exact to some megabytes. Memory of accelerators is not
  counted at all.
- the peak while a model is parsed, which can be a multiple of what stays.
- who allocated: what requests to other models hold at the instant of the second reading counts too, and
  what they held at the first is missing. A load during which requests ran is therefore believed only where
  it measures no less than what was learned from quiet ones (see `SizeHistory`).
"""

import ctypes
import gc
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.runtimes.python.sizing import file_bytes

PAGE_BYTES = 4096
"""The least that a model is said to take: 0 would mean that its size is not known."""

UNSEEN_BYTES = 16 << 20
"""So much more than twice what was counted must the process grow before its growth is believed instead."""

KEPT_BYTES = 32 << 20
"""So much may stay with glibc: giving it back and getting it again takes time."""

_MEAN_SMALL_OBJECT_BYTES = 64
_BLOCK_BYTES = re.compile(rb"# bytes in allocated blocks\s*=\s*([\d,]+)")


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of this process at one instant, in bytes.

    Attributes:
        allocated: in use in the heaps; 0 where the C library cannot tell.
        anonymous: resident and backed by no file.
    """

    allocated: int
    anonymous: int


def growth(before: Usage, after: Usage) -> int:
    """Computes what was taken between two readings, at least `PAGE_BYTES`."""
    counted = max(0, after.allocated - before.allocated)
    if grown_unseen(before, after):
        counted = after.anonymous - before.anonymous
    return max(PAGE_BYTES, counted)


def grown_unseen(before: Usage, after: Usage) -> bool:
    """Tells whether the process grew by so much more than was counted that memory was got past malloc."""
    counted = max(0, after.allocated - before.allocated)
    return after.anonymous - before.anonymous > 2 * counted + UNSEEN_BYTES


class Meter:
    """Measures what is taken between its making and a call of `read`."""

    def __init__(self) -> None:
        # Garbage of before that goes during the load would be missing from its size.
        gc.collect(1)
        self._before = _read_usage()

    def read(self, files: Sequence[Path] = ()) -> int:
        """Reads what was taken since.

        Args:
            files: of the model. Where they hold twice what was counted, it is looked whether they are mapped.

        Returns: bytes, at least `PAGE_BYTES`.
        """
        gc.collect(1)
        after = _read_usage()
        if grown_unseen(self._before, after):
            # Freed memory that glibc keeps for later looks the same; give it back and look again.
            release_free()
            after = Usage(after.allocated, _anonymous_bytes())
        size = growth(self._before, after)
        if file_bytes(files) > 2 * size:
            size += _mapped_bytes(files)
        return size


def _read_usage() -> Usage:
    return Usage(_allocated_bytes(), _anonymous_bytes())


def release_free() -> None:
    """Gives memory that glibc keeps for later back to the system."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


class FreeMemory:
    """Bounds what glibc keeps of freed memory: the mesh counts on its being there for the next model."""

    def __init__(self) -> None:
        self._least = _kept_bytes()

    def give_back(self) -> None:
        """Gives it back to the system where it has become more than `KEPT_BYTES`."""
        if _kept_bytes() > self._least + KEPT_BYTES:
            release_free()
            # The rest is not heap at all, or in pieces smaller than a page.
            self._least = _kept_bytes()


def _kept_bytes() -> int:
    return _anonymous_bytes() - _allocated_bytes()


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


_LIBC: Any = ctypes.CDLL(None)
if hasattr(_LIBC, "mallinfo2"):
    _LIBC.mallinfo2.restype = _Mallinfo2
_LIBC.open_memstream.restype = ctypes.c_void_p
_LIBC.fclose.argtypes = [ctypes.c_void_p]
_LIBC.free.argtypes = [ctypes.c_void_p]


def _allocated_bytes() -> int:
    return _malloc_bytes() + _object_bytes()


def _malloc_bytes() -> int:
    if not hasattr(_LIBC, "mallinfo2"):
        return 0
    info = _LIBC.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def _object_bytes() -> int:
    """Bytes of small Python objects, which do not come from malloc; estimated without CPython's report."""
    report = getattr(ctypes.pythonapi, "_PyObject_DebugMallocStats", None)
    if report is not None:
        buffer, length = ctypes.c_void_p(), ctypes.c_size_t()
        stream = _LIBC.open_memstream(ctypes.byref(buffer), ctypes.byref(length))
        if stream:
            report(ctypes.c_void_p(stream))
            _LIBC.fclose(stream)
            text = ctypes.string_at(buffer, length.value)
            _LIBC.free(buffer)
            if found := _BLOCK_BYTES.search(text):
                return int(found[1].replace(b",", b""))
    return sys.getallocatedblocks() * _MEAN_SMALL_OBJECT_BYTES


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def _mapped_bytes(files: Sequence[Path]) -> int:
    names = {str(file.resolve()) for file in files}
    size = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in names:
            start, end = fields[0].split("-")
            size += int(end, 16) - int(start, 16)
    return size
