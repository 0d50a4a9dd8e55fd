"""What must hold in every mesh at every moment, and what must hold once nothing more befalls it."""

from typing import TYPE_CHECKING

from mesh.placement import CopyState

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance
    from mesh.simulation.models import Model
    from mesh.simulation.world import World

#: Why a request may be refused by a mesh that works: there is no room, or nobody knows the model.
ACCEPTED = frozenset(
    {
        "churn",
        "no_room",
        "older_than_all",
        "space_timeout",
        "larger_than_capacity",
        "too_large",
        "model_not_found",
    }
)
#: A load that nobody has reported on after this is forgotten: waits for memory, loading and unloading together.
LONGEST_LOAD_US = 900_000_000


class Broken(Exception):
    """An invariant does not hold."""


class Invariants:
    """Looks at a world after each event.

    Args:
        world: that is looked at.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self._looks = 0

    def look(self) -> None:
        """Looks at what is cheap to look at, and now and then at all.

        Raises:
            Broken: something does not hold.
        """
        self._looks += 1
        thorough = self._looks % 64 == 0
        for instance in self._world.instances.values():
            if instance.alive:
                self._check_server(instance)
                if thorough:
                    self._check_cache(instance)

    def _check_server(self, instance: "Instance") -> None:
        server = instance.server
        allowed = server.capacity + sum(server.oversize.values())
        if server.held_units > allowed:
            self._break(instance, f"its model server holds {server.held_units} units of {allowed}")
        if len(server.loading) > instance.loader.cache.limits.loader_threads:
            self._break(instance, f"loads {sorted(server.loading)} at a time")
        if not instance.loader.serving.keys() <= server.loaded:
            missing = sorted(instance.loader.serving.keys() - server.loaded)
            self._break(instance, f"sends requests to {missing}, which its model server does not have")

    def _check_cache(self, instance: "Instance") -> None:
        cache = instance.loader.cache
        entries = [copy for copy in cache.copies() if copy.state is not CopyState.UNLOADING]
        used = sum(copy.units for copy in entries if copy.state is not CopyState.NEW)
        if used != cache.used_units:
            self._break(instance, f"counts {cache.used_units} units as used, its entries have {used}")
        if min(cache.used_units, cache.pending_units, cache.unloading_units, cache.resident_units) < 0:
            self._break(instance, "counts less than nothing")
        for model_id, wanted in instance.loader.wanted.items():
            if model_id not in cache:
                self._break(instance, f"has people wait for {model_id}, of which its cache knows nothing")
            if self._world.agenda.now_us - wanted.since_us > LONGEST_LOAD_US:
                self._break(instance, f"has not reported on the load of {model_id}")

    def failed(self, ingress: "Instance", model: "Model", arrived_us: int, reason: str) -> None:
        """A request ended in an error: there must not have been a copy all the while.

        Raises:
            Broken: an instance that could be reached had one.
        """
        if reason == "model_not_found" or model.tampered or not ingress.untroubled_since(arrived_us):
            return
        for instance in self._world.instances.values():
            copy = instance.loader.serving.get(model.model_id)
            if copy is not None and copy.since_us < arrived_us and instance.untroubled_since(arrived_us):
                self._break(
                    ingress,
                    f"failed a request for {model.model_id} ({reason}), which {instance.instance_id} had all the while",
                )

    def settled(self) -> None:
        """Everything must be in step again, some time after the last fault.

        Raises:
            Broken: something does not hold.
        """
        world = self._world
        alive = {name: instance for name, instance in world.instances.items() if instance.alive}
        for name, instance in alive.items():
            if set(instance.seen.records) != set(alive):
                self._break(instance, f"sees {sorted(instance.seen.records)}, there are {sorted(alive)}")
            if instance.loader.wanted or instance.loader.cache.loads_in_progress:
                self._break(instance, f"still loads {sorted(instance.loader.wanted)}")
            if not instance.registration.settled:
                self._break(instance, "still writes to records")
            instance.placer.reservations.expire(instance.now_ms)
            if instance.placer.placing or len(instance.placer.reservations):
                self._break(instance, f"still places {sorted(instance.placer.placing)}")
            if instance.open_requests:
                self._break(instance, f"has {instance.open_requests} requests without an answer")
            self._check_cache(instance)
            self._check_settled_copies(name, instance)

    def _check_settled_copies(self, name: str, instance: "Instance") -> None:
        serving = set(instance.loader.serving)
        held = set(instance.server.held)
        stuck = {
            copy.model_id for copy in instance.loader.cache.copies() if copy.state is CopyState.UNLOADING
        }
        if held - stuck != serving:
            self._break(instance, f"serves {sorted(serving)}, its model server holds {sorted(held - stuck)}")
        listed = {model_id for model_id, record in self._world.store.models.items() if name in record.copies}
        if listed != serving:
            missing, extra = sorted(serving - listed), sorted(listed - serving)
            self._break(instance, f"has {missing}, which no record says, and not {extra}, which records say")

    def _break(self, instance: "Instance", what: str) -> None:
        raise Broken(f"at {self._world.agenda.now_us / 1e6:.3f} s instance {instance.instance_id} {what}")
