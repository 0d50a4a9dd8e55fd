"""A simulated instance that is told to end: others take over what it has before it goes."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from mesh.placement import CopyState, CopyView, to_hand_over
from mesh.simulation.placer import Found

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance

#: Models handed over at a time; as in an instance.
AT_ONCE = 10
#: Between two looks at what is left to hand over; as in an instance.
LOOK_AGAIN_US = 250_000
#: The hand-over takes no longer than this: what an instance has of its time to shut down.
BUDGET_US = 80_000_000
#: Then requests that others still send here have their time.
LAST_REQUESTS_US = 2_000_000


def leave(instance: "Instance") -> Generator[Any, Any, None]:
    """Hands models over and ends."""
    instance.healthy = False
    instance.presence.leaving = True
    for served in instance.loader.serving.values():
        served.model.warm = None
    instance.loader.stop_loading()
    instance.presence.publish()
    deadline_us = instance.agenda.now_us + BUDGET_US
    handed_over: set[str] = set()
    tried: dict[str, int] = {}
    while instance.agenda.now_us < deadline_us:
        instance.loader.read_usage()
        here = [copy for copy in instance.loader.cache.copies() if copy.model_id not in handed_over]
        copies = to_hand_over(here, (), tried, instance.now_ms)
        if copies:
            under_way = [
                instance.start(_hand_over(instance, copy, handed_over, tried)) for copy in copies[:AT_ONCE]
            ]
            yield from under_way
        elif not instance.loader.cache.loads_in_progress and others_can_load(instance):
            break
        yield LOOK_AGAIN_US
    for copy in instance.loader.cache.copies():
        if copy.state is CopyState.FAILED:
            instance.registration.remove_failure(copy.model_id)
        else:
            instance.registration.remove_copy(copy.model_id)
    yield from instance.presence.withdraw()
    yield LAST_REQUESTS_US
    instance.world.gone(instance)


def others_can_load(instance: "Instance") -> bool:
    """Whether there is another instance that takes models."""
    return any(
        record.capacity and not record.shutting_down
        for name, record in instance.seen.records.items()
        if name != instance.instance_id
    )


def _hand_over(
    instance: "Instance", copy: CopyView, handed_over: set[str], tried: dict[str, int]
) -> Generator[Any, Any, None]:
    model = instance.world.model_of[copy.model_id]
    found = yield from instance.placer.copy_elsewhere(model, last_used_ms=copy.last_used_ms)
    if isinstance(found, Found):
        handed_over.add(copy.model_id)
        instance.registration.remove_copy(copy.model_id)
    else:
        tried[copy.model_id] = copy.last_used_ms
