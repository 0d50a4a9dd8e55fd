"""The instances of a simulated mesh as some of them see them, a moment late."""

from mesh.placement import ClusterView, InstanceView
from mesh.registry import InstanceRecord
from mesh.simulation.presence import view_of


class PeersSeen:
    """Instance records as they have been delivered; may be shared by instances that see the same.

    Attributes:
        lag_us: how late changes are delivered.
        records: of the instances that are there.
        renewed_us: when each record was last delivered.
    """

    def __init__(self, lag_us: int, default_model_units: int) -> None:
        self.lag_us = lag_us
        self.default_model_units = default_model_units
        self.records: dict[str, InstanceRecord] = {}
        self.renewed_us: dict[str, int] = {}
        self._views: dict[str, InstanceView] = {}

    def delivered(self, instance_id: str, record: InstanceRecord | None, now_us: int) -> None:
        """A change has come in."""
        if record is None:
            self.records.pop(instance_id, None)
            self._views.pop(instance_id, None)
            self.renewed_us.pop(instance_id, None)
            return
        self.records[instance_id] = record
        self.renewed_us[instance_id] = now_us
        # Instances whose model server is down tell no capacity.
        if record.capacity:
            self._views[instance_id] = view_of(instance_id, record)
        else:
            self._views.pop(instance_id, None)

    def view(self, self_id: str, own: InstanceView | None, avoided: frozenset[str]) -> ClusterView:
        """Every instance that can be asked now, as one of them sees it.

        Args:
            own: itself, as it is; None where it takes no models.
            avoided: instances that do not answer.
        """
        views = {instance_id: view for instance_id, view in self._views.items() if instance_id not in avoided}
        if own is not None:
            views[self_id] = own
        else:
            views.pop(self_id, None)
        return ClusterView(views, self_id, self.default_model_units)

    def copied(self) -> "PeersSeen":
        """What is seen now, for an instance that is going to see something else."""
        copy = PeersSeen(self.lag_us, self.default_model_units)
        for instance_id, record in self.records.items():
            copy.delivered(instance_id, record, self.renewed_us[instance_id])
        return copy
