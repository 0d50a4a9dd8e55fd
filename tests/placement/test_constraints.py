"""Which types may live where, and which instances they go to first."""

from random import Random

import pytest

from mesh.placement import (
    Exclusion,
    InstanceView,
    Placement,
    PlacementReason,
    PlacementRequest,
    RankedInstances,
    TypeConstraints,
    choose,
)

NOW = 1_800_000_000_000
HOUR = 3_600_000


def instance(name: str, labels: str = "", **changes: object) -> InstanceView:
    values: dict[str, object] = {"used_units": 10_000, "oldest_used_ms": NOW - HOUR, "models": 10}
    return InstanceView(name, 100_000, labels=frozenset(labels.split()), **(values | changes))  # type: ignore[arg-type]


def full(name: str, labels: str = "", *, age_ms: int, **changes: object) -> InstanceView:
    return instance(name, labels, used_units=99_990, oldest_used_ms=NOW - age_ms, **changes)


def place(
    rules: str, *instances: InstanceView, model_type: str = "t", seed: int = 0, copies: tuple[str, ...] = ()
) -> Placement:
    ranked = RankedInstances(1_000, TypeConstraints.parse(rules), instances)
    request = PlacementRequest(
        "m", model_type, last_used_ms=NOW, excluded=dict.fromkeys(copies, Exclusion.HAS_COPY)
    )
    return choose(ranked, request, NOW, Random(seed))


def chosen(
    rules: str, *instances: InstanceView, model_type: str = "t", copies: tuple[str, ...] = ()
) -> set[str | None]:
    return {
        place(rules, *instances, model_type=model_type, seed=seed, copies=copies).chosen for seed in range(30)
    }


def test_all_required_labels_must_be_there() -> None:
    rules = '{"t": {"required": ["gpu", "big"]}}'
    instances = [instance("a", "gpu", models=0), instance("b", "gpu big"), instance("c", "big", models=0)]
    placement = place(rules, *instances)
    assert placement.chosen == "b"
    assert {one.instance_id: one.refused for one in placement.candidates} == {
        "a": "lacks label big, which its type requires",
        "b": "",
        "c": "lacks label gpu, which its type requires",
    }


def test_nowhere_to_live_is_said_with_type_and_labels() -> None:
    placement = place('{"t": {"required": ["gpu"]}}', instance("a"), instance("b", "cpu"))
    assert placement.reason is PlacementReason.NOT_ELIGIBLE
    assert placement.message == (
        "There are no running instances that meet the label requirements of type t: [gpu]"
    )


def test_the_default_rule_is_for_types_without_one() -> None:
    rules = '{"t": {"required": ["gpu"]}, "_default": {"required": ["cpu"]}}'
    instances = [instance("a", "gpu"), instance("b", "cpu")]
    assert chosen(rules, *instances) == {"a"}
    assert chosen(rules, *instances, model_type="anything else") == {"b"}


def test_any_preferred_label_goes_first_while_there_is_room() -> None:
    rules = '{"t": {"preferred": ["fast", "near"]}}'
    busy = [instance("a", "fast", models=500), instance("b", "near", models=500), instance("c", models=0)]
    assert chosen(rules, *busy) == {"a", "b"}
    aside = {one.instance_id: one.score for one in place(rules, *busy).candidates}["c"]
    assert aside.endswith("set aside: the type prefers others by their labels")
    assert chosen(rules, full("a", "fast", age_ms=HOUR), instance("c")) == {"c"}


def test_a_label_that_is_both_required_and_preferred_is_preferred() -> None:
    rules = '{"t": {"required": ["gpu"], "preferred": ["gpu"]}}'
    assert chosen(rules, instance("a", "gpu"), instance("b")) == {"a"}
    rules = '{"t": {"required": ["gpu"], "preferred": ["fast"]}}'
    assert chosen(rules, instance("a", "gpu"), instance("b", "gpu fast", models=500)) == {"b"}


def test_a_full_preferred_instance_is_taken_for_copies_hardly_younger() -> None:
    rules = '{"t": {"preferred": ["fast"]}}'
    best = full("best", age_ms=HOUR)
    assert chosen(rules, best, full("near", "fast", age_ms=HOUR - 119_000)) == {"near"}
    assert chosen(rules, best, full("quarter", "fast", age_ms=HOUR * 3 // 4)) == {"quarter"}
    assert chosen(rules, best, full("young", "fast", age_ms=HOUR // 2)) == {"best"}


def test_types_without_a_preference_leave_special_instances_to_those_that_need_them() -> None:
    rules = '{"vision": {"required": ["gpu"]}, "speech": {"preferred": ["gpu"]}}'
    instances = [instance("gpu", "gpu", models=0), instance("plain", models=500)]
    assert chosen(rules, *instances, model_type="tables") == {"plain"}
    assert chosen(rules, *instances, model_type="vision") == {"gpu"}
    assert chosen(rules, *instances, model_type="speech") == {"gpu"}
    # Where all are alike, none goes first.
    assert chosen(rules, instance("a", "gpu"), instance("b", "gpu"), model_type="tables") == {"a", "b"}


def test_further_copies_spread_over_zones_then_hosts() -> None:
    instances = [
        instance("a", zone="z1", location="h1"),
        instance("b", zone="z1", location="h1", models=0),
        instance("c", zone="z1", location="h2", models=0),
        instance("d", zone="z2", location="h3", models=500),
        instance("e", zone="z2", location="h4", models=500),
    ]
    assert chosen("{}", *instances, copies=("a",)) == {"d", "e"}
    placement = place("{}", *instances, copies=("a",))
    told = {one.instance_id: one.score or one.refused for one in placement.candidates}
    assert told["b"].endswith("set aside: zone z1 has 1 copy already")
    assert chosen("{}", *instances, copies=("a", "d")) == {"c"}
    told = {
        one.instance_id: one.score or one.refused
        for one in place("{}", *instances, copies=("a", "d")).candidates
    }
    assert told["b"].endswith("set aside: host h1 has 1 copy already")


def test_a_zone_that_is_full_is_not_emptied_for_the_spread() -> None:
    held = instance("a", zone="z1")
    assert chosen("{}", held, instance("b", zone="z1"), full("c", age_ms=HOUR, zone="z2"), copies=("a",)) == {
        "b"
    }


def test_preferred_labels_go_before_the_spread() -> None:
    rules = '{"t": {"preferred": ["fast"]}}'
    instances = [instance("a", "fast", zone="z1"), instance("b", "fast", zone="z1"), instance("c", zone="z2")]
    assert chosen(rules, *instances, copies=("a",)) == {"b"}


def test_instances_to_be_avoided_are_taken_where_there_is_no_other() -> None:
    ranked = RankedInstances(1_000, instances=[instance("old", models=0), instance("new", models=500)])
    request = PlacementRequest("m", "t", last_used_ms=NOW)
    placement = choose(ranked, request, NOW, Random(1), avoid={"old"})
    assert placement.chosen == "new"
    assert placement.candidates[-1].refused == "its replica set is being replaced"
    request = PlacementRequest("m", "t", last_used_ms=NOW, excluded={"new": Exclusion.FAILED})
    assert choose(ranked, request, NOW, Random(1), avoid={"old"}).chosen == "old"


def test_nothing_is_evicted_to_avoid_an_instance_that_has_room() -> None:
    ranked = RankedInstances(1_000, instances=[instance("old"), full("new", age_ms=HOUR)])
    request = PlacementRequest("m", "t", last_used_ms=NOW)
    assert choose(ranked, request, NOW, Random(1), avoid={"old"}).chosen == "old"
    ranked.put(full("old", age_ms=2 * HOUR))
    assert choose(ranked, request, NOW, Random(1), avoid={"old"}).chosen == "new"


def test_where_a_request_found_no_copy_the_model_goes_only_where_there_is_no_other() -> None:
    ranked = RankedInstances(1_000, instances=[instance("a", models=0), instance("b", models=500)])
    request = PlacementRequest("m", "t", last_used_ms=NOW, excluded={"a": Exclusion.NOT_SERVED})
    assert choose(ranked, request, NOW, Random(1)).chosen == "b"
    ranked.remove("b")
    assert choose(ranked, request, NOW, Random(1)).chosen == "a"


def test_new_rules_count_at_once() -> None:
    ranked = RankedInstances(1_000, instances=[instance("a", "gpu"), instance("b")])
    request = PlacementRequest("m", "t", last_used_ms=NOW)
    ranked.constraints = TypeConstraints.parse('{"t": {"required": ["gpu"]}}')
    assert {choose(ranked, request, NOW, Random(seed)).chosen for seed in range(9)} == {"a"}
    assert ranked.stats("t").instances == 1
    ranked.constraints = TypeConstraints()
    assert {choose(ranked, request, NOW, Random(seed)).chosen for seed in range(9)} == {"a", "b"}
    assert ranked.stats("t").instances == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "must be an object of rules by model type"),
        ('{"t": ["gpu"]}', "type 't': must be an object with 'required' or 'preferred'"),
        ('{"t": {"require": ["gpu"]}}', "type 't': 'require' is neither 'required' nor 'preferred'"),
        ('{"t": {"required": "gpu"}}', "type 't': required must be a list of labels, is 'gpu'"),
        ('{"t": {"preferred": [1]}}', "type 't': preferred must be a list of labels"),
    ],
)
def test_what_is_wrong_with_rules_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TypeConstraints.parse(text)
