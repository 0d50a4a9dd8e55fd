"""What the first loads of an instance must not be like."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.placement import Bootstrap

MINUTE = 60_000
NOW = 1_000 * MINUTE
LOADED = {"other": NOW - 2 * MINUTE}


def _bootstrap() -> Bootstrap:
    return Bootstrap(NOW, clearance_ms=3 * MINUTE, loading_timeout_ms=MINUTE)


def test_three_models_that_others_have_loaded_are_enough() -> None:
    bootstrap = _bootstrap()
    assert bootstrap.failed("a", LOADED, {}, 0, NOW) == ""
    assert bootstrap.failed("b", LOADED, {}, 0, NOW) == ""
    assert "a, b, c" in bootstrap.failed("c", LOADED, {}, 0, NOW)


def test_a_copy_that_may_still_be_loading_proves_nothing() -> None:
    bootstrap = _bootstrap()
    loading = {"other": NOW - MINUTE // 2}
    assert not any(bootstrap.failed(f"m{n}", loading, {}, 0, NOW) for n in range(20))


def test_half_of_many_loads_must_not_fail() -> None:
    bootstrap = _bootstrap()
    for _ in range(10):
        bootstrap.loaded()
    told = [bootstrap.failed(f"m{n}", {}, {}, 0, NOW) for n in range(11)]
    assert told[:10] == [""] * 10
    assert told[10].startswith("11 of the first 21 loads failed")


def test_loads_under_way_count_as_loads() -> None:
    bootstrap = _bootstrap()
    assert not any(bootstrap.failed(f"m{n}", {}, {}, outstanding=20, now_ms=NOW) for n in range(20))
    assert bootstrap.failed("last", {}, {}, outstanding=20, now_ms=NOW)


def test_models_known_to_be_bad_do_not_count() -> None:
    bootstrap = _bootstrap()
    long_ago, lately = {"other": NOW - 31 * MINUTE}, {"other": NOW - 29 * MINUTE}
    assert not any(bootstrap.failed(f"m{n}", {}, long_ago, 0, NOW) for n in range(100))
    assert any(bootstrap.failed(f"m{n}", {}, lately, 0, NOW) for n in range(21))


@given(st.integers(3 * MINUTE, 10**6 * MINUTE))
def test_later_failures_say_nothing_about_the_start(after_ms: int) -> None:
    bootstrap = _bootstrap()
    assert not any(bootstrap.failed(f"m{n}", LOADED, {}, 0, NOW + after_ms) for n in range(100))
