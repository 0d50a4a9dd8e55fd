"""Counts the models of the mesh as their records change."""

from mesh.instance.metrics import ClusterGauges
from mesh.registry import ModelRecord, Registry


class Census:
    """How many models are registered, have a copy, or have a failed load; kept up to date, never counted anew."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._loaded = 0
        self._failed = 0
        registry.models.subscribe(self._changed, replay=True)

    def _changed(self, model_id: str, old: ModelRecord | None, new: ModelRecord | None) -> None:
        self._loaded += _one_if(new, "copies") - _one_if(old, "copies")
        self._failed += _one_if(new, "failures") - _one_if(old, "failures")

    def gauges(self) -> ClusterGauges | None:
        """The counts, or None while another instance leads, so that the mesh shows each once."""
        if not self._registry.election.leading:
            return None
        return ClusterGauges(managed=len(self._registry.models), loaded=self._loaded, failed=self._failed)


def _one_if(record: ModelRecord | None, attribute: str) -> int:
    return 1 if record is not None and getattr(record, attribute) else 0
