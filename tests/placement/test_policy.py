"""A model's policy is what its owner wrote, and survives releases that know less of it or more."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.placement import DEFAULT_POLICY, CopyPolicy, InvalidPolicy
from mesh.registry import MODELS, Entry, ModelRecord

counts = st.integers(0, 10_000)
policies = st.builds(
    CopyPolicy,
    min_copies=counts,
    max_copies=counts,
    pinned=st.booleans(),
    priority=st.integers(-100, 100),
    idle_ttl_ms=st.integers(0, 2**53),
    declared_size_bytes=st.integers(0, 2**53),
)


@given(policies)
def test_a_policy_survives_the_registry(policy: CopyPolicy) -> None:
    value = MODELS.encode(ModelRecord(type="x", policy=policy.members()))
    assert CopyPolicy.from_members(MODELS.decode(Entry("/p/x", value, 1, 1)).policy) == policy
    if policy == DEFAULT_POLICY:
        assert value == b'{"type":"x"}'


@given(policies, policies)
def test_a_new_policy_replaces_the_old_one_and_keeps_what_it_does_not_know(
    old: CopyPolicy, new: CopyPolicy
) -> None:
    members = new.members({**old.members(), "ofALaterRelease": [1]})
    assert members == {**new.members(), "ofALaterRelease": [1]}
    assert CopyPolicy.from_members(members) == new


@pytest.mark.parametrize("value", [None, "2", 2.5, True, [2]])
def test_a_member_that_is_no_number_leaves_the_model_usable(value: object) -> None:
    read = CopyPolicy.from_members(json.loads(json.dumps({"minCopies": value, "maxCopies": 3})))
    assert read == CopyPolicy(max_copies=3)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (CopyPolicy(min_copies=-1), "min_copies is -1: it must be 0 to 10000"),
        (CopyPolicy(priority=101), "priority is 101: it must be -100 to 100"),
        (CopyPolicy(idle_ttl_ms=-5), "idle_ttl_ms is -5"),
        (
            CopyPolicy(min_copies=3, max_copies=2),
            "max_copies is 2, less than min_copies, 3: raise max_copies",
        ),
    ],
)
def test_a_policy_that_cannot_be_says_why(policy: CopyPolicy, told: str) -> None:
    with pytest.raises(InvalidPolicy, match=told):
        policy.check()


def test_bounds() -> None:
    CopyPolicy(min_copies=2, max_copies=2, pinned=True).check()
    CopyPolicy(pinned=True, max_copies=1).check()
    assert CopyPolicy(pinned=True).kept_copies == 1
    assert CopyPolicy(pinned=True, min_copies=3).kept_copies == 3
    assert DEFAULT_POLICY.allows(10**6)
    assert [CopyPolicy(max_copies=2).allows(copies) for copies in (0, 1, 2)] == [True, True, False]
