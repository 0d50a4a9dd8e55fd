"""What eviction policies cost on a trace, beside the optimum."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.placement import UNIT_BYTES, EvictionPolicy, EvictionRanking
from mesh.simulation import Trace, TracedModel
from mesh.simulation.single_cache import Case, Finding, belady, compare, least_cold_start, replay, study

CASES = study(models=300, requests=15_000)


def _trace(numbers: list[int], sizes: list[int], loads_ms: list[int]) -> Trace:
    trace = Trace(
        [
            TracedModel(f"m{number}", "t", size * UNIT_BYTES, load_ms * 1_000, 1)
            for number, (size, load_ms) in enumerate(zip(sizes, loads_ms, strict=True))
        ]
    )
    for place, number in enumerate(numbers):
        trace.add(place * 10_000_000, number)
    return trace


def _finding(name: str, *, equal_sizes: bool, equal_load_times: bool) -> Finding:
    (case,) = (
        case
        for case in CASES
        if (case.name, case.equal_sizes, case.equal_load_times) == (name, equal_sizes, equal_load_times)
    )
    return compare(case)


@pytest.mark.parametrize("name", ["Zipf 0.9", "Zipf 1.1", "daily, silent nights"])
def test_loads_take_much_less_where_load_times_differ(name: str) -> None:
    finding = _finding(name, equal_sizes=True, equal_load_times=False)
    assert finding.change <= -0.15
    assert finding.best_change < finding.change


@pytest.mark.parametrize("name", ["Zipf 0.9", "Zipf 1.1", "daily, silent nights", "daily, a few busy hours"])
def test_loads_do_not_take_longer_where_load_times_are_equal(name: str) -> None:
    assert _finding(name, equal_sizes=True, equal_load_times=True).change <= 0.02


def test_a_working_set_that_moves_on_is_followed_as_by_lru() -> None:
    # Each model has one busy hour: how often it was used says nothing of when it will be.
    case = Case("one busy hour", replace(CASES[-4].workload, day_sharpness=40.0))
    assert compare(case).change <= 0.02


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 3))
def test_beladys_choice_needs_the_fewest_loads(numbers: list[int], places: int) -> None:
    trace = _trace(numbers, [1] * 4, [1] * 4)
    fewest = min(_loads(numbers, places, victims) for victims in product(range(3), repeat=len(numbers)))
    assert belady(trace, places) == fewest


def _loads(numbers: list[int], places: int, victims: tuple[int, ...]) -> int:
    """Loads where the n-th eviction takes the entry in place ``victims[n]``."""
    held: list[int] = []
    choices = iter(victims)
    loads = 0
    for number in numbers:
        if number not in held:
            loads += 1
            if len(held) == places:
                held.pop(next(choices) % places)
            held.append(number)
    return loads


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.lists(st.integers(1, 5), min_size=5, max_size=5),
    st.lists(st.integers(1, 100), min_size=5, max_size=5),
    st.integers(5, 12),
)
def test_nothing_goes_below_the_bound(
    numbers: list[int], sizes: list[int], loads_ms: list[int], capacity: int
) -> None:
    trace = _trace(numbers, sizes, loads_ms)
    least = least_cold_start(trace, capacity)
    for ranking in EvictionRanking:
        assert replay(trace, capacity, EvictionPolicy(ranking)).cold_start_ms >= least - 1e-6
    if len(set(sizes)) == 1 and len(set(loads_ms)) == 1:
        assert belady(trace, capacity // sizes[0]) * loads_ms[0] >= least - 1e-6


def test_a_model_that_fits_nowhere_is_named() -> None:
    with pytest.raises(ValueError, match="m0 of 5 units does not fit into 4 units"):
        replay(_trace([0], [5], [1]), 4, EvictionPolicy())
