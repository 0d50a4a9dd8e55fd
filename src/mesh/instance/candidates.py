"""The instances as places for models: what their records say, and what was placed there since."""

from collections.abc import Callable

from mesh.instance.peers import Peers
from mesh.instance.routes import Routes
from mesh.placement import ClusterView, InstanceView, Reservations
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
        reservations: placements that the records do not show yet.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        peers: Peers,
        routes: Routes,
        own_view: Callable[[], InstanceView | None],
        *,
        default_model_units: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._peers = peers
        self._routes = routes
        self._own_view = own_view
        self._now_ms = now_ms
        self._views: dict[str, InstanceView] = {}
        self.default_model_units = default_model_units
        self.reservations = Reservations()

    def start(self) -> None:
        """Follows the records; peers must be known first."""
        self._registry.instances.subscribe(self._changed, replay=True)

    def view(self) -> ClusterView:
        """Every instance that can be asked now."""
        self.reservations.expire(self._now_ms())
        views = {
            instance_id: view
            for instance_id, view in self._views.items()
            if self._peers.get(instance_id) is not None and not self._routes.is_suspect(instance_id)
        }
        if (own := self._own_view()) is not None:
            views[self._instance_id] = own
        return ClusterView(views, self._instance_id, self.default_model_units)

    def _changed(self, instance_id: str, _: InstanceRecord | None, record: InstanceRecord | None) -> None:
        # Routers, and instances whose model server is down, tell no capacity.
        if record is None or not record.endpoint or record.capacity == 0:
            self._views.pop(instance_id, None)
            self.reservations.instance_gone(instance_id)
            return
        self._views[instance_id] = view_of(instance_id, record)
        self.reservations.record_renewed(instance_id, self._now_ms())
