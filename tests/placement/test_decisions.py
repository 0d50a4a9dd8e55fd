"""Decisions are kept, newest first, without one model washing out the others."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.placement import Decision, DecisionKind, DecisionRing


def decision(model_id: str, time_ms: int) -> Decision:
    return Decision(DecisionKind.LOAD, time_ms, model_id, "loaded")


def test_newest_first_overall_and_of_one_model() -> None:
    ring = DecisionRing()
    for time_ms, model_id in enumerate("abab"):
        ring.add(decision(model_id, time_ms))
    assert [one.time_ms for one in ring.newest(3)] == [3, 2, 1]
    assert [one.time_ms for one in ring.newest(10, "a")] == [2, 0]
    assert ring.newest(10, "c") == []
    assert [one.time_ms for one in ring] == [0, 1, 2, 3]


def test_a_storm_of_one_model_leaves_the_others() -> None:
    ring = DecisionRing(capacity=100, per_model=10)
    ring.add(decision("quiet", 0))
    for time_ms in range(1_000):
        ring.add(decision("loud", time_ms))
    assert len(ring.newest(100, "quiet")) == 1
    assert len(ring) == 11


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdef")), st.integers(1, 8), st.integers(1, 4))
def test_bounds_hold_and_the_newest_are_kept(models: list[str], capacity: int, per_model: int) -> None:
    ring = DecisionRing(capacity, per_model)
    for time_ms, model_id in enumerate(models):
        ring.add(decision(model_id, time_ms))
        assert len(ring) <= capacity
        assert ring.newest(1)[0].time_ms == time_ms
        for other in "abcdef":
            mine = ring.newest(100, other)
            assert len(mine) <= per_model
            assert all(one.model_id == other for one in mine)
        assert sum(len(ring.newest(100, other)) for other in "abcdef") == len(ring)
