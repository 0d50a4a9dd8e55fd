"""Instances of a replica set that is being replaced are known as such, others never are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.placement import InstanceView, Rollouts, replica_set

MINUTE = 60_000
NOW = 1_800_000_000_000

OLD, NEW, NEWER = "bbbbbb", "cccccc", "dddddd"


def pod(replicas: str, number: int, started_ms: int, labels: frozenset[str] = frozenset()) -> InstanceView:
    return InstanceView(
        f"{replicas}-xxxx{'bcdfghjkl'[number]}", 1_000, 0, start_time_ms=started_ms, labels=labels
    )


def followed(*views: InstanceView) -> Rollouts:
    rollouts = Rollouts()
    for view in views:
        rollouts.put(view, NOW)
    return rollouts


def test_old_pods_are_avoided_from_the_first_new_one_on_until_the_rollout_is_over() -> None:
    old = [pod(OLD, number, NOW - 3_600_000) for number in range(3)]
    rollouts = followed(*old)
    assert rollouts.replaced(NOW) == frozenset()
    rollouts.put(pod(NEW, 0, NOW), NOW)
    assert rollouts.replaced(NOW + MINUTE) == {view.instance_id for view in old}
    # Nothing has come for ten minutes, and none of the old ones has gone: it was a rollout that stands still.
    assert rollouts.replaced(NOW + 11 * MINUTE) == frozenset()


def test_a_slow_rollout_goes_on_while_old_pods_go() -> None:
    old = [pod(OLD, number, NOW - 3_600_000) for number in range(3)]
    rollouts = followed(*old, pod(NEW, 0, NOW))
    rollouts.remove(old[0].instance_id, NOW + 5 * MINUTE)
    assert rollouts.replaced(NOW + 19 * MINUTE) == {view.instance_id for view in old[1:]}
    assert rollouts.replaced(NOW + 21 * MINUTE) == frozenset()


def test_a_replica_set_that_grows_again_is_not_going() -> None:
    """A rollback, or two Deployments with the same labels of which one was scaled up."""
    old = [pod(OLD, 0, NOW - 3_600_000)]
    rollouts = followed(*old, pod(NEW, 0, NOW - 5 * MINUTE), pod(OLD, 1, NOW))
    assert rollouts.replaced(NOW + MINUTE) == frozenset()


def test_what_is_deployed_together_replaces_nothing() -> None:
    rollouts = followed(pod(OLD, 0, NOW - 50_000), pod(NEW, 0, NOW))
    assert rollouts.replaced(NOW + 1_000) == frozenset()


def test_deployments_with_other_labels_are_none_of_its_business() -> None:
    triton, mlserver = frozenset({"triton"}), frozenset({"mlserver"})
    rollouts = followed(
        pod(OLD, 0, NOW - 3_600_000, triton), pod(NEW, 0, NOW, mlserver), pod(NEWER, 0, NOW, triton)
    )
    assert rollouts.replaced(NOW + MINUTE) == {pod(OLD, 0, 0).instance_id}


@pytest.mark.parametrize("instance_id", ["laptop-8033", "runtime-0", "a-b", "aeiou1-bcdfg", ""])
def test_ids_not_made_by_a_deployment_belong_to_no_replica_set(instance_id: str) -> None:
    assert replica_set(instance_id) == ""
    rollouts = followed(InstanceView(instance_id, 1, 0, start_time_ms=NOW - 10**7), pod(NEW, 0, NOW))
    assert rollouts.replaced(NOW) == frozenset()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([OLD, NEW, NEWER]),
            st.integers(0, 3),
            st.integers(0, 40),
            st.booleans(),
        )
    )
)
def test_the_newest_pod_of_all_is_never_avoided_and_gone_ones_are_forgotten(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    rollouts, there, now = Rollouts(), dict[str, InstanceView](), NOW
    for replicas, number, minutes, comes in steps:
        now += minutes * MINUTE
        view = pod(replicas, number, now)
        if comes:
            rollouts.put(view, now)
            there[view.instance_id] = view
        else:
            rollouts.remove(view.instance_id, now)
            there.pop(view.instance_id, None)
        avoided = rollouts.replaced(now)
        assert avoided <= there.keys()
        if there:
            newest = max(view.start_time_ms for view in there.values())
            assert not any(there[one].start_time_ms == newest for one in avoided)
