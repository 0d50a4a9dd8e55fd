"""Counts the models and vmodels of the mesh as their records change."""

from mesh.instance.metrics import ClusterGauges
from mesh.registry import ModelRecord, Registry, VModelRecord


class Census:
    """How many models are registered, have a copy, or have a failed load, and how many vmodels are on their way.

    Kept up to date, never counted anew.

    Attributes:
        loaded: models with a copy.
        failed: models with a failure that still counts.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.loaded = 0
        self.failed: set[str] = set()
        self._vmodels_moving = 0
        self._vmodels_failed = 0
        registry.models.subscribe(self._changed, replay=True)
        registry.vmodels.subscribe(self._vmodel_changed, replay=True)

    def _changed(self, model_id: str, old: ModelRecord | None, new: ModelRecord | None) -> None:
        self.loaded += _has_copies(new) - _has_copies(old)
        if new is not None and new.failures:
            self.failed.add(model_id)
        else:
            self.failed.discard(model_id)

    def _vmodel_changed(self, vmodel_id: str, old: VModelRecord | None, new: VModelRecord | None) -> None:
        for record, change in ((old, -1), (new, 1)):
            if record is not None and record.active != record.target:
                self._vmodels_moving += change
                self._vmodels_failed += change * record.failed

    def gauges(self) -> ClusterGauges | None:
        """The counts, or None while another instance leads, so that the mesh shows each once."""
        if not self._registry.election.leading:
            return None
        return ClusterGauges(
            managed=len(self._registry.models),
            loaded=self.loaded,
            failed=len(self.failed),
            vmodels=len(self._registry.vmodels),
            vmodels_moving=self._vmodels_moving,
            vmodels_failed=self._vmodels_failed,
        )


def _has_copies(record: ModelRecord | None) -> bool:
    return record is not None and bool(record.copies)
