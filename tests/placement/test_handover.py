"""Which copies an instance that leaves has others load."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.placement import CopyState, CopyView, to_hand_over

NOW = 1_800_000_000_000
SECOND, HOUR = 1_000, 3_600_000


def _copy(
    model_id: str, used_ago_ms: int, state: CopyState = CopyState.LOADED, in_flight: int = 0
) -> CopyView:
    return CopyView(model_id, state, 1, NOW - used_ago_ms, NOW - 2 * HOUR, in_flight)


def _ids(copies: list[CopyView]) -> list[str]:
    return [copy.model_id for copy in copies]


def test_what_was_used_lately_goes_first_and_what_was_not_stays() -> None:
    copies = [
        _copy("old", 50 * 60 * SECOND),
        _copy("idle", 2 * HOUR),
        _copy("hot", SECOND),
        _copy("busy", 3 * HOUR, in_flight=1),
        _copy("loading", SECOND, CopyState.LOADING),
        _copy("failed", SECOND, CopyState.FAILED),
        _copy("measured", 2 * SECOND, CopyState.SIZING),
    ]
    assert _ids(to_hand_over(copies, (), {}, NOW)) == ["hot", "measured", "old", "busy"]


def test_models_that_are_to_be_there_always_are_handed_over_though_unused() -> None:
    assert _ids(to_hand_over([_copy("pinned", 24 * HOUR)], {"pinned"}, {}, NOW)) == ["pinned"]


def test_what_was_refused_is_tried_again_only_while_it_is_used() -> None:
    used = NOW - SECOND
    assert to_hand_over([_copy("m", SECOND)], (), {"m": used}, NOW) == []
    assert _ids(to_hand_over([_copy("m", SECOND)], (), {"m": used - 1}, NOW)) == ["m"]
    assert to_hand_over([_copy("m", 11 * SECOND)], {"m"}, {"m": used - HOUR}, NOW) == []
    assert _ids(to_hand_over([_copy("m", HOUR, in_flight=1)], (), {"m": used}, NOW)) == ["m"]


@given(st.lists(st.integers(0, 3 * HOUR), max_size=20))
def test_a_round_that_failed_ends_unless_something_is_used(ages: list[int]) -> None:
    copies = [_copy(f"m{n}", age) for n, age in enumerate(ages)]
    tried = {copy.model_id: copy.last_used_ms for copy in copies}
    assert to_hand_over(copies, tried, tried, NOW) == []
