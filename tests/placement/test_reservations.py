"""Placements that the records do not show yet."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.placement import Pending, Reservations


def test_a_placement_counts_until_it_is_released() -> None:
    reservations = Reservations()
    reservations.add("m", "a", 10, 0)
    reservations.add("n", "a", 5, 0)
    assert reservations.pending("a") == Pending(15, 2)
    assert reservations.pending("b") == Pending()
    reservations.release("m", "a")
    reservations.release("m", "a")
    assert reservations.pending("a") == Pending(5, 1)


def test_a_model_counts_once_on_an_instance() -> None:
    reservations = Reservations()
    reservations.add("m", "a", 10, 0)
    reservations.add("m", "a", 12, 5)
    assert reservations.pending("a") == Pending(12, 1)
    reservations.expire(30_000)
    assert len(reservations) == 1


def test_a_record_shows_what_its_instance_had_accepted_before() -> None:
    reservations = Reservations()
    reservations.add("m", "a", 10, 1_000)
    reservations.record_renewed("a", 1_010)
    assert len(reservations) == 1
    reservations.accepted("m", "a", 1_020)
    reservations.record_renewed("a", 1_021)
    assert len(reservations) == 0


def test_a_record_that_comes_long_after_the_placement_shows_it_too() -> None:
    reservations = Reservations(visible_after_ms=500)
    reservations.add("m", "a", 10, 1_000)
    reservations.record_renewed("a", 1_501)
    assert reservations.pending("a") == Pending()


def test_nothing_is_held_for_ever() -> None:
    reservations = Reservations(ttl_ms=30_000)
    reservations.add("m", "a", 10, 0)
    reservations.expire(29_999)
    assert len(reservations) == 1
    reservations.expire(30_000)
    assert len(reservations) == 0


def test_an_instance_that_is_gone_has_nothing_pending() -> None:
    reservations = Reservations()
    reservations.add("m", "a", 10, 0)
    reservations.instance_gone("a")
    assert reservations.pending("a") == Pending()


def test_bad_times_are_named() -> None:
    with pytest.raises(ValueError, match="ttl_ms is 0"):
        Reservations(ttl_ms=0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "accept", "renew", "release", "gone", "expire"]),
            st.sampled_from("mno"),
            st.sampled_from("ab"),
            st.integers(0, 1_000),
        )
    )
)
def test_totals_are_never_negative_and_end_at_nothing(steps: list[tuple[str, str, str, int]]) -> None:
    reservations = Reservations(ttl_ms=2_000)
    now = 0
    for action, model, instance, number in steps:
        now += number
        match action:
            case "add":
                reservations.add(model, instance, number, now)
            case "accept":
                reservations.accepted(model, instance, now)
            case "renew":
                reservations.record_renewed(instance, now)
            case "release":
                reservations.release(model, instance)
            case "gone":
                reservations.instance_gone(instance)
            case _:
                reservations.expire(now)
        pending = [reservations.pending(one) for one in "ab"]
        assert all(one.units >= 0 and one.loads >= 0 for one in pending)
        assert sum(one.loads for one in pending) == len(reservations)
    reservations.expire(now + 2_000)
    assert len(reservations) == 0
    assert reservations.pending("a") == reservations.pending("b") == Pending()
