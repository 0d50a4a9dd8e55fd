"""A request that no warm copy took at once: what its instance does for it."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from mesh.placement import (
    AwaitLoad,
    FailRequest,
    GiveHeldAnswer,
    PlaceLoad,
    RequestView,
    UseCopies,
    next_step,
)
from mesh.simulation.models import Model
from mesh.simulation.placer import Found, NotPlaced

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance

#: What a peer answers that has no copy.
NOT_HERE = "not here"


class Requests:
    """Requests that came to one simulated instance."""

    def __init__(self, instance: "Instance") -> None:
        self._instance = instance

    def take(
        self, model: Model, arrived_us: int, tried: frozenset[str] = frozenset(), *, waited: bool = False
    ) -> Generator[Any, Any, None]:
        """Brings a request to a copy.

        Args:
            tried: instances that did not serve it.
            waited: it has waited for a load before.
        """
        instance, world = self._instance, self._instance.world
        failed = set(tried)
        attempts = len(tried)
        while True:
            record = instance.client.model(model.model_id)
            failures = (
                [(time, record.failure_message(name)) for name, time in record.failures.items()]
                if record is not None and record.failures
                else []
            )
            request = RequestView(model.model_id, attempts=attempts, tried=frozenset(failed))
            step = next_step(request, instance.routes.usable(model), failures, instance.now_ms)
            match step:
                case UseCopies(instances):
                    name = self._fewest_in_flight(model, instances)
                case AwaitLoad(name) if name != instance.instance_id:
                    pass
                case AwaitLoad() | PlaceLoad():
                    waited = True
                    # That it lost the model does not keep this instance from loading it again.
                    placing = instance.placer.ensure_copy(
                        model, urgent=True, tried=frozenset(failed - {instance.instance_id})
                    )
                    found = yield placing
                    if not isinstance(found, Found):
                        reason = found.reason if isinstance(found, NotPlaced) else "broken_off"
                        world.request_failed(instance, model, arrived_us, reason)
                        return
                    name = found.instance_id
                case FailRequest(reason=reason):
                    world.request_failed(instance, model, arrived_us, reason.value)
                    return
                case GiveHeldAnswer():
                    world.request_failed(instance, model, arrived_us, "held")
                    return
            attempts += 1
            if name == instance.instance_id:
                answer = yield from _serve(instance, instance, model, arrived_us, waited)
            else:
                now_waited = waited
                answer = yield instance.call(
                    world.instances.get(name),
                    lambda peer: _serve(peer, instance, model, arrived_us, now_waited),  # noqa: B023 - waited for
                )
            if isinstance(answer, tuple):
                end_us, had_to_wait = answer
                remote_us = 0 if name == instance.instance_id else world.scenario.hop_us
                world.request_served(instance, arrived_us, end_us + remote_us, waited=waited or had_to_wait)
                return
            failed.add(name)
            if answer == NOT_HERE:
                instance.routes.note_absent(model.model_id, name)
            elif name != instance.instance_id:
                instance.routes.note_unreachable(name)

    def _fewest_in_flight(self, model: Model, names: tuple[str, ...]) -> str:
        if len(names) == 1:
            return names[0]
        instance = self._instance
        copies = [
            copy
            for name in names
            if (peer := instance.world.instances.get(name)) is not None
            and (copy := peer.loader.serving.get(model.model_id)) is not None
        ]
        if len(copies) < len(names):
            return instance.random.choice(names)
        return instance.world.pick(instance, copies).instance.instance_id


def _serve(
    instance: "Instance", ingress: "Instance", model: Model, arrived_us: int, waited: bool
) -> Generator[Any, Any, tuple[int, bool] | str]:
    """Serves a request at an instance, waiting for a load that is under way there.

    Returns: when it is done and whether it waited, or that there is no copy.
    """
    wanted = instance.loader.wanted.get(model.model_id)
    if wanted is not None and model.model_id not in instance.loader.serving:
        waited = True
        instance.loader.hurry(model.model_id)
        outcome = yield wanted.outcome
        if not outcome.loaded:
            return NOT_HERE
    copy = instance.loader.serving.get(model.model_id)
    if copy is None:
        return NOT_HERE
    return instance.world.serve(copy, ingress, arrived_us, waited=waited), waited
