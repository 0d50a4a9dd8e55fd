"""The instances of a simulated mesh as some of them see them, a moment late."""

from mesh.placement import RankedInstances
from mesh.registry import InstanceRecord
from mesh.simulation.presence import view_of


class PeersSeen:
    """Instance records as they have been delivered; may be shared by instances that see the same.

    Attributes:
        lag_us: how late changes are delivered.
        records: of the instances that are there.
        renewed_us: when each record was last delivered.
        ranked: those that models can go to.
    """

    def __init__(self, lag_us: int, default_model_units: int) -> None:
        self.lag_us = lag_us
        self.records: dict[str, InstanceRecord] = {}
        self.renewed_us: dict[str, int] = {}
        self.ranked = RankedInstances(default_model_units)

    def delivered(self, instance_id: str, record: InstanceRecord | None, now_us: int) -> None:
        """A change has come in."""
        if record is None:
            self.records.pop(instance_id, None)
            self.renewed_us.pop(instance_id, None)
        else:
            self.records[instance_id] = record
            self.renewed_us[instance_id] = now_us
        # Instances whose model server is down tell no capacity.
        if record is not None and record.capacity:
            self.ranked.put(view_of(instance_id, record))
        else:
            self.ranked.remove(instance_id)

    def copied(self) -> "PeersSeen":
        """What is seen now, for an instance that is going to see something else."""
        copy = PeersSeen(self.lag_us, self.ranked.default_model_units)
        for instance_id, record in self.records.items():
            copy.delivered(instance_id, record, self.renewed_us[instance_id])
        return copy
