"""Windows over rows as they come: the newest ones, by count or by time, side by side or overlapping."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mesh.tensors import Array


@dataclass(frozen=True, slots=True)
class WindowShape:
    """When a window is judged, and of which rows it is.

    Attributes:
        rows: the newest so many, and never more; with ``seconds`` the bound of memory.
        every_rows: judged after so many new rows. As many as ``rows``: windows side by side; fewer: overlapping.
        seconds: those of the newest so many seconds, if given.
        every_seconds: judged after so many; with ``seconds`` this counts, and ``every_rows`` does not.
        fewest: rows without which a window is not judged.
    """

    rows: int = 1_000
    every_rows: int = 1_000
    seconds: float | None = None
    every_seconds: float | None = None
    fewest: int = 1


class Windows:
    """Keeps the rows of the newest window in memory that does not grow."""

    def __init__(self, shape: WindowShape, width: int) -> None:
        """Begins without rows.

        Args:
            shape: of the windows.
            width: values of a row.
        """
        self._shape = shape
        self._rows = np.empty((shape.rows, width))
        self._times = np.empty(shape.rows)
        # Rows that came so far; the newest is at this number minus one, modulo the size.
        self._came = 0
        self._judged = 0
        self._due: float | None = None

    def add(self, rows: Array, at: float) -> Iterator[Array]:
        """Takes rows, and gives each window that they complete, its rows in order.

        Args:
            rows: that came at one time.
            at: seconds of any clock; one before that of earlier rows counts as theirs.
        """
        if self._shape.seconds is not None:
            if self._came:
                at = max(at, float(self._times[(self._came - 1) % self._shape.rows]))
            yield from self._until(at)
        while len(rows):
            room = self._shape.rows
            if self._shape.seconds is None:
                room = min(room, self._shape.every_rows - (self._came - self._judged))
            some, rows = rows[:room], rows[room:]
            places = np.arange(self._came, self._came + len(some)) % self._shape.rows
            self._rows[places] = some
            self._times[places] = at
            self._came += len(some)
            if self._shape.seconds is None and self._came - self._judged == self._shape.every_rows:
                self._judged = self._came
                yield from self._newest(min(self._came, self._shape.rows))

    def _until(self, at: float) -> Iterator[Array]:
        """Judges what was due before now."""
        seconds = self._shape.seconds or 0.0
        every = self._shape.every_seconds or seconds
        if self._due is None:
            self._due = at + every
            return
        if at < self._due:
            return
        kept = min(self._came, self._shape.rows)
        order = np.arange(self._came - kept, self._came) % self._shape.rows
        within = np.count_nonzero(self._times[order] >= self._due - seconds)
        # Nothing came between this window's end and now, so there are no further windows to judge.
        self._due += every * (1 + (at - self._due) // every)
        yield from self._newest(int(within))

    def _newest(self, count: int) -> Iterator[Array]:
        if count >= max(1, self._shape.fewest):
            yield self._rows[np.arange(self._came - count, self._came) % self._shape.rows]
