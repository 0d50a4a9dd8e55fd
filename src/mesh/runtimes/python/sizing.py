"""Estimates of a model's memory from the size of its files, learned from the loads that were measured."""

import math
from collections.abc import Sequence
from pathlib import Path

DEFAULT_RATIO = 1.25
"""Memory for each byte of file until something was learned, as KServe ModelMesh's adapters assume."""

_WEIGHT_OF_NEWEST = 0.25


class SizeHistory:
    """Learns the ratio of memory to file size.

    It differs by format and by size (a small model is mostly overhead), so there is one ratio for each
    format and power of two of the file size; a prediction uses the nearest one of the format.
    """

    def __init__(self) -> None:
        self._ratios: dict[str, dict[int, float]] = {}

    def learn(self, model_type: str, file_bytes: int, memory_bytes: int) -> None:
        """Takes a measured load into account; newer ones count more."""
        if file_bytes <= 0:
            return
        ratios = self._ratios.setdefault(model_type, {})
        ratio, magnitude = memory_bytes / file_bytes, int(math.log2(file_bytes))
        known = ratios.get(magnitude, ratio)
        ratios[magnitude] = known + _WEIGHT_OF_NEWEST * (ratio - known)

    def predict(self, model_type: str, file_bytes: int) -> int | None:
        """Estimates bytes of memory; None without any file."""
        if file_bytes <= 0:
            return None
        ratios = self._ratios.get(model_type)
        if not ratios:
            return math.ceil(DEFAULT_RATIO * file_bytes)
        magnitude = int(math.log2(file_bytes))
        nearest = min(ratios, key=lambda known: (abs(known - magnitude), known))
        return max(1, math.ceil(ratios[nearest] * file_bytes))


def model_files(path: str) -> list[Path]:
    """Lists a file, or all files of a directory; nothing where there is none."""
    if not path:
        return []
    root = Path(path)
    return [file for file in ([root] if root.is_file() else root.rglob("*")) if file.is_file()]


def file_bytes(files: Sequence[Path]) -> int:
    """Sums the sizes of files."""
    return sum(file.stat().st_size for file in files)


def versions(files: Sequence[Path]) -> frozenset[tuple[str, int, int]]:
    """Tells a state of files from a later one, by name, size and time of change."""
    return frozenset((str(file), (status := file.stat()).st_size, status.st_mtime_ns) for file in files)
