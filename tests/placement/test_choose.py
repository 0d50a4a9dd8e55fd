"""Where a model goes, and why not elsewhere."""

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.placement import (
    Exclusion,
    InstanceView,
    Placement,
    PlacementReason,
    PlacementRequest,
    RankedInstances,
    Reservations,
    choose,
)

NOW = 1_800_000_000_000
CAPACITY = 100_000
DEFAULT = 1_000


def instance(name: str, **changes: Any) -> InstanceView:
    values: dict[str, Any] = {
        "capacity_units": CAPACITY,
        "used_units": 10_000,
        "oldest_used_ms": NOW - 3_600_000,
        "models": 10,
        "loader_threads": 2,
    }
    return InstanceView(name, **(values | changes))


def full(name: str, oldest_used_ms: int) -> InstanceView:
    return instance(name, used_units=CAPACITY - 10, oldest_used_ms=oldest_used_ms)


def place(*instances: InstanceView, seed: int = 0, **request: Any) -> Placement:
    asked = PlacementRequest("m", **({"last_used_ms": NOW} | request))
    ranked = RankedInstances(DEFAULT, instances=instances)
    return choose(ranked, asked, NOW, Random(seed), self_id="self")


def chosen(*instances: InstanceView, **request: Any) -> set[str | None]:
    return {place(*instances, seed=seed, **request).chosen for seed in range(40)}


def test_each_candidate_says_why() -> None:
    placement = place(
        instance("a"),
        instance("b", shutting_down=True),
        instance("c"),
        instance("d", capacity_units=400, used_units=0),
        excluded={"c": Exclusion.HAS_COPY},
        units=500,
    )
    assert placement.chosen == "a"
    assert placement.reason is PlacementReason.CHOSEN
    assert {candidate.instance_id: candidate.refused for candidate in placement.candidates} == {
        "a": "",
        "b": "is shutting down",
        "c": "has a copy already",
        "d": "its capacity, 3.1 MiB, is smaller than the model, 3.9 MiB",
    }
    assert placement.candidates[0].rank == 1
    assert "room: 703.1 MiB of 781.2 MiB free, 10 models, 0 loads on 2 loaders" in placement.message


@pytest.mark.parametrize(
    ("instances", "request_", "reason", "message"),
    [
        ([], {}, PlacementReason.NO_INSTANCES, "No instance is there for model m"),
        (
            [instance("a")],
            {"excluded": {"a": Exclusion.FAILED}},
            PlacementReason.ALL_EXCLUDED,
            "None of 1 instances can take model m: 1 x the model failed to load there",
        ),
        (
            [instance("a")],
            {"units": CAPACITY + 1},
            PlacementReason.TOO_LARGE,
            "None of 1 instances can take model m: 1 x its capacity, 781.2 MiB, is smaller than the model",
        ),
        (
            [full("a", NOW - 1_000)],
            {"last_used_ms": NOW - 5_000},
            PlacementReason.NO_ROOM,
            "None of 1 instances can take model m: 1 x full, with copies all used more recently",
        ),
    ],
)
def test_nowhere_has_a_reason(
    instances: list[InstanceView], request_: dict[str, Any], reason: PlacementReason, message: str
) -> None:
    placement = place(*instances, **request_)
    assert placement.chosen is None
    assert placement.reason is reason
    assert placement.message.startswith(message)


def test_room_goes_before_full() -> None:
    assert chosen(full("full", NOW - 10**9), instance("room", models=5_000)) == {"room"}


def test_a_model_that_does_not_fit_beside_the_others_goes_where_it_does() -> None:
    fuller = instance("fuller", used_units=60_000, models=1)
    assert chosen(fuller, instance("emptier", models=30), units=50_000) == {"emptier"}


def test_among_full_ones_the_oldest_copy_goes() -> None:
    assert chosen(full("young", NOW - 600_000), full("old", NOW - 6_000_000)) == {"old"}


def test_full_ones_of_about_the_same_age_share() -> None:
    assert chosen(full("a", NOW - 6_000_000), full("b", NOW - 6_000_000 + 44_000)) == {"a", "b"}


def test_instances_with_many_more_models_are_not_as_good() -> None:
    assert chosen(instance("few", models=100), instance("many", models=126)) == {"few"}
    others = (instance("more", models=120), instance("as many", models=120))
    assert chosen(instance("few", models=100), *others) == {"few", "more", "as many"}


def test_instances_with_much_less_room_are_not_as_good() -> None:
    roomy = instance("roomy", used_units=0, models=10)
    assert chosen(roomy, instance("tight", used_units=76_000, models=10)) == {"roomy"}


def test_the_newer_version_is_preferred_while_it_has_room() -> None:
    newer = instance("new", version=2, models=0)
    assert chosen(newer, instance("old", version=1), instance("unknown")) == {"new"}
    queued = replace(newer, loads_in_progress=8)
    assert chosen(queued, instance("old", version=1)) == {"old"}
    saturated = replace(full("new", NOW - 10**9), version=2)
    assert chosen(saturated, instance("old", version=1)) == {"old"}


def test_a_caller_that_balances_gets_the_instance_it_asked() -> None:
    assert chosen(instance("self"), instance("b"), balanced=True) == {"self"}
    assert chosen(instance("self"), instance("b")) == {"self", "b"}
    assert chosen(instance("self", models=100), instance("b"), balanced=True) == {"b"}


def test_busy_instances_are_spared_models_that_will_be_busy() -> None:
    busy = instance("busy", requests_per_minute=400)
    calm = instance("calm", requests_per_minute=200)
    assert chosen(busy, calm) == {"calm"}
    assert chosen(busy, calm, last_used_ms=NOW - 60_000) == {"busy", "calm"}
    assert chosen(busy, instance("idle"), last_used_ms=NOW - 60_000) == {"idle"}
    assert chosen(busy, instance("idle"), last_used_ms=NOW - 6 * 86_400_000) == {"busy", "idle"}


def test_a_queue_of_loads_makes_another_instance_better() -> None:
    # An instance that has just joined is empty; its two loaders have enough to do all the same.
    joined = instance("joined", used_units=0, models=8, loads_in_progress=8)
    assert chosen(joined, instance("other", models=500)) == {"other"}


def test_a_filter_refuses_with_its_own_words() -> None:
    placement = choose(
        RankedInstances(DEFAULT, instances=[instance("a"), instance("b")]),
        PlacementRequest("m", last_used_ms=NOW),
        NOW,
        Random(1),
        filters=[lambda one, _request: "has no gpu" if one.instance_id == "a" else ""],
    )
    assert placement.chosen == "b"
    assert placement.candidates[1].refused == "has no gpu"


def spread(seed: int, models: int, instances: int) -> Counter[str]:
    """Places cold models in one go: no record is renewed meanwhile."""
    names = [f"i{number}" for number in range(instances)]
    ranked = RankedInstances(DEFAULT, instances=[instance(name, used_units=0, models=0) for name in names])
    reservations = Reservations()
    random = Random(seed)
    placed: Counter[str] = Counter()
    for number in range(models):
        placement = choose(
            ranked, PlacementRequest(f"m{number}", last_used_ms=NOW), NOW, random, reservations=reservations
        )
        assert placement.chosen is not None
        reservations.add(f"m{number}", placement.chosen, 10, NOW)
        placed[placement.chosen] += 1
    return placed


@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_cold_models_spread_over_ten_instances(seed: int) -> None:
    placed = spread(seed, 1_000, 10)
    assert len(placed) == 10
    assert 80 <= min(placed.values()) <= max(placed.values()) <= 120


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), instances=st.integers(2, 8))
def test_bursts_spread_whatever_the_dice_say(seed: int, instances: int) -> None:
    placed = spread(seed, 40 * instances, instances)
    assert 32 <= min(placed.values()) <= max(placed.values()) <= 48


def test_choosers_that_do_not_know_of_each_other_still_spread() -> None:
    names = [f"i{number}" for number in range(10)]
    ranked = RankedInstances(DEFAULT, instances=[instance(name, used_units=0, models=0) for name in names])
    placed: Counter[str] = Counter()
    for chooser in range(10):
        reservations, random = Reservations(), Random(chooser)
        for number in range(100):
            request = PlacementRequest(f"m{chooser}-{number}", last_used_ms=NOW)
            placement = choose(ranked, request, NOW, random, reservations=reservations)
            assert placement.chosen is not None
            reservations.add(request.model_id, placement.chosen, 10, NOW)
            placed[placement.chosen] += 1
    assert 80 <= min(placed.values()) <= max(placed.values()) <= 120


instances_strategy = st.lists(
    st.builds(
        instance,
        st.uuids().map(str),
        capacity_units=st.integers(0, 100_000),
        used_units=st.integers(0, 120_000),
        oldest_used_ms=st.integers(NOW - 10**7, NOW),
        models=st.integers(0, 1_000),
        loader_threads=st.integers(0, 8),
        loads_in_progress=st.integers(0, 100),
        requests_per_minute=st.integers(0, 10_000),
        shutting_down=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda one: one.instance_id,
)


@settings(deadline=None)
@given(instances=instances_strategy, units=st.integers(0, 120_000), seed=st.integers(), data=st.data())
def test_every_instance_is_ranked_or_refused_and_the_choice_is_sound(
    instances: list[InstanceView], units: int, seed: int, data: st.DataObject
) -> None:
    excluded = {
        one.instance_id: Exclusion.TRIED for one in instances if data.draw(st.booleans(), label="excluded")
    }
    placement = place(*instances, seed=seed, units=units, excluded=excluded)
    assert {candidate.instance_id for candidate in placement.candidates} == {
        one.instance_id for one in instances
    }
    for candidate in placement.candidates:
        assert bool(candidate.refused) != bool(candidate.score)
        assert bool(candidate.rank) == bool(candidate.score)
    ranked = [candidate for candidate in placement.candidates if candidate.rank]
    assert bool(ranked) == (placement.chosen is not None)
    if placement.chosen is not None:
        one = next(one for one in instances if one.instance_id == placement.chosen)
        assert placement.chosen not in excluded
        assert not one.shutting_down
        assert units <= one.capacity_units
    assert place(*instances, seed=seed, units=units, excluded=excluded) == placement
