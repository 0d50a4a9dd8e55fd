import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mesh.payload.monitors.windows import Windows, WindowShape


def column(*values: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array(values, float).reshape(-1, 1)


@given(
    sizes=st.lists(st.integers(0, 30), max_size=20),
    rows=st.integers(1, 25),
    every=st.integers(1, 40),
)
def test_windows_by_count_are_the_newest_rows_at_every_step(sizes: list[int], rows: int, every: int) -> None:
    windows = Windows(WindowShape(rows=rows, every_rows=every), 1)
    came: list[float] = []
    judged: list[list[float]] = []
    for size in sizes:
        new = [float(len(came) + index) for index in range(size)]
        judged += [window[:, 0].tolist() for window in windows.add(column(*new), 0)]
        came += new
    assert judged == [came[max(0, end - rows) : end] for end in range(every, len(came) + 1, every)]


@given(
    gaps=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    seconds=st.integers(1, 20),
    every=st.integers(1, 20),
)
def test_windows_by_time_are_the_rows_of_the_newest_seconds(
    gaps: list[int], seconds: int, every: int
) -> None:
    shape = WindowShape(rows=1_000, seconds=float(seconds), every_seconds=float(every))
    windows = Windows(shape, 1)
    times = [int(time) for time in np.cumsum(gaps)]
    end = times[0] + every
    for index, at in enumerate(times):
        judged = [window[:, 0].tolist() for window in windows.add(column(index), float(at))]
        expected = []
        if at >= end:
            expected = [[row for row in range(index) if end - seconds <= times[row] < end]]
            end += every * (1 + (at - end) // every)
        assert judged == [window for window in expected if window]


def test_windows_by_time_are_bounded_by_rows_and_need_some() -> None:
    windows = Windows(WindowShape(rows=3, seconds=10.0, fewest=2), 1)
    assert not list(windows.add(column(1, 2, 3, 4), 0))
    (window,) = windows.add(column(5), 10)
    assert window[:, 0].tolist() == [2, 3, 4]
    assert not list(windows.add(column(6), 20))


def test_a_clock_that_goes_back_loses_no_row() -> None:
    windows = Windows(WindowShape(rows=10, seconds=10.0), 1)
    for at in (100.0, 90.0, 105.0):
        assert not list(windows.add(column(at), at))
    (window,) = windows.add(column(0), 110)
    assert window[:, 0].tolist() == [100, 90, 105]
