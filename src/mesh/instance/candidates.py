"""The instances as places for models: what their records say, and what was placed there since."""

from collections.abc import Callable

from mesh.placement import InstanceView, RankedInstances, Reservations, Rollouts, TypeConstraints
from mesh.registry import InstanceRecord, Registry


def view_of(instance_id: str, record: InstanceRecord) -> InstanceView:
    """An instance as its record shows it."""
    return InstanceView(
        instance_id,
        capacity_units=record.capacity,
        used_units=record.used,
        oldest_used_ms=record.oldest_use,
        models=record.count,
        loader_threads=record.loading_threads,
        loads_in_progress=record.loads_in_progress,
        requests_per_minute=record.request_rate,
        shutting_down=record.shutting_down,
        version=record.version,
        location=record.location,
        zone=record.zone,
        labels=frozenset(record.labels),
        start_time_ms=record.start_time,
    )


class Candidates:
    """Follows the instances' records.

    Args:
        own_view: this instance at this moment; None where it takes no models.
        default_model_units: assumed size of a model of which nothing is known.
        now_ms: epoch milliseconds.

    Attributes:
        ranked: what their records say, and of this instance what it knows itself.
        reservations: placements that the records do not show yet.
        rollouts: which instances are about to be replaced.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        own_view: Callable[[], InstanceView | None],
        *,
        default_model_units: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._own_view = own_view
        self._now_ms = now_ms
        self.ranked = RankedInstances(default_model_units)
        self.reservations = Reservations()
        self.rollouts = Rollouts()

    def start(self) -> None:
        """Follows the records."""
        self._registry.instances.subscribe(self._changed, replay=True)

    def set_constraints(self, constraints: TypeConstraints) -> None:
        """From now on types may live where these say; copies that are elsewhere stay until they are evicted."""
        self.ranked.constraints = constraints

    def forbidden_here(self, model_type: str) -> str:
        """Why a type cannot live on this instance; empty where it can.

        A peer may not have heard of new rules yet, so that it asks for what cannot be.
        """
        required = self.ranked.constraints.rule(model_type).required
        own = self._own_view() if required else None
        if own is None or required <= own.labels:
            return ""
        lacking = ", ".join(sorted(required - own.labels))
        return f"this instance lacks label {lacking}, which type {model_type} requires"

    def refresh(self) -> None:
        """Brings up to date what changes without a record: this instance, and what was placed long ago."""
        self.reservations.expire(self._now_ms())
        if (own := self._own_view()) is not None:
            self.ranked.put(own)
        else:
            self.ranked.remove(self._instance_id)

    def _changed(self, instance_id: str, _: InstanceRecord | None, record: InstanceRecord | None) -> None:
        now_ms = self._now_ms()
        if record is None:
            self.rollouts.remove(instance_id, now_ms)
        else:
            self.rollouts.put(view_of(instance_id, record), now_ms)
        if instance_id == self._instance_id:
            return
        # Routers, and instances whose model server is down, tell no capacity.
        if record is None or not record.endpoint or record.capacity == 0:
            self.ranked.remove(instance_id)
            self.reservations.instance_gone(instance_id)
            return
        self.ranked.put(view_of(instance_id, record))
        self.reservations.record_renewed(instance_id, now_ms)
