"""Sizes that are measured, against sizes that are known."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.runtimes.python.memory import PAGE_BYTES, UNSEEN_BYTES, Meter, Usage, growth
from mesh.runtimes.python.sizing import DEFAULT_RATIO, SizeHistory, file_bytes, model_files
from mesh.runtimes.python.workers import run_in_ended_thread

KIB, MIB = 1 << 10, 1 << 20


def measure(make: Any, *files: Path) -> int:
    """The middle of three: threads that earlier tests have left end when they like, and with them memory."""
    sizes = []
    for _ in range(3):
        meter = Meter()
        kept = run_in_ended_thread(make)
        sizes.append(meter.read(files))
        del kept
    return sorted(sizes)[1]


@pytest.mark.parametrize("size", [64 * KIB, MIB, 20 * MIB, 150 * MIB])
def test_an_array_is_measured(size: int) -> None:
    assert measure(lambda: np.ones(size, np.uint8)) == pytest.approx(size, rel=0.02, abs=24 * KIB)


def test_small_python_objects_are_measured() -> None:
    # A float takes 24 bytes of its own, in blocks of 32, and 8 in the list.
    assert measure(lambda: [float(number) for number in range(200_000)]) == pytest.approx(
        200_000 * 40, rel=0.1
    )


def test_what_was_needed_only_while_loading_does_not_count() -> None:
    def load() -> Any:
        scratch = [np.ones(MIB, np.uint8) for _ in range(100)]
        return np.ones(2 * MIB, np.uint8) + scratch[0][0]

    assert measure(load) == pytest.approx(2 * MIB, rel=0.05)


def test_memory_got_past_malloc_is_noticed() -> None:
    def load() -> mmap.mmap:
        memory = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, 64 * MIB, 4096):
            memory[offset] = 1
        return memory

    assert measure(load) == pytest.approx(64 * MIB, rel=0.25)


def test_a_file_that_is_read_in_place_counts(tmp_path: Path) -> None:
    weights = np.lib.format.open_memmap(tmp_path / "weights.npy", mode="w+", dtype=np.uint8, shape=(5 * MIB,))
    weights.flush()
    del weights
    (tmp_path / "linked").symlink_to(tmp_path / "weights.npy")
    size = measure(lambda: np.load(tmp_path / "weights.npy", mmap_mode="r"), tmp_path / "linked")
    assert size == pytest.approx(5 * MIB, rel=0.02)


def test_nothing_takes_at_least_a_page() -> None:
    assert measure(lambda: None) >= PAGE_BYTES


USAGES = st.builds(Usage, st.integers(0, 1 << 40), st.integers(0, 1 << 40))


@given(USAGES, USAGES)
def test_growth_is_never_nothing_and_never_more_than_all_that_came(before: Usage, after: Usage) -> None:
    size = growth(before, after)
    most = max(after.allocated - before.allocated, after.anonymous - before.anonymous, 0)
    assert PAGE_BYTES <= size <= max(PAGE_BYTES, most)
    assert size >= after.allocated - before.allocated


def test_a_little_growth_that_was_not_counted_is_believed_to_be_noise() -> None:
    assert growth(Usage(0, 0), Usage(10_000, UNSEEN_BYTES)) == 10_000


def test_a_prediction_is_learned_by_format_and_magnitude() -> None:
    history = SizeHistory()
    assert history.predict("onnx", 1000) == 1000 * DEFAULT_RATIO
    history.learn("onnx", 30_000, 180_000)
    history.learn("onnx", 100_000_000, 110_000_000)
    assert history.predict("onnx", 26_000) == pytest.approx(156_000, abs=1)
    assert history.predict("onnx", 90_000_000) == pytest.approx(99_000_000, abs=1)
    assert history.predict("sklearn", 1000) == 1000 * DEFAULT_RATIO
    assert history.predict("onnx", 0) is None


@given(
    st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(1, 1 << 40)), min_size=1), st.integers(1, 1 << 40)
)
def test_a_prediction_stays_within_the_ratios_that_were_seen(
    loads: list[tuple[int, int]], files: int
) -> None:
    history = SizeHistory()
    for size, memory in loads:
        history.learn("t", size, memory)
    ratios = [memory / size for size, memory in loads]
    predicted = history.predict("t", files)
    assert predicted is not None
    assert min(ratios) * files * 0.999 <= predicted <= max(ratios) * files * 1.001 + 1


def test_the_size_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b").write_bytes(bytes(5))
    assert file_bytes(model_files(str(tmp_path))) == 15
    assert file_bytes(model_files(str(tmp_path / "a"))) == 10
    assert model_files(str(tmp_path / "none")) == model_files("") == []
