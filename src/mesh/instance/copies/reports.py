"""Tells of copies that are added, taken away and moved: in the ring of decisions, in metrics and in the log."""

import logging
from collections.abc import Callable

from mesh.instance.errors import MeshError
from mesh.instance.metrics import Metrics
from mesh.placement import Decision, DecisionKind, DecisionRing
from mesh.placement.copies import Growth, Move, Surplus

log = logging.getLogger(__name__)


class CopyReports:
    """What one instance did about the number of copies, and why.

    Args:
        now_ms: epoch milliseconds.
    """

    def __init__(self, ring: DecisionRing, metrics: Metrics, now_ms: Callable[[], int]) -> None:
        self._ring = ring
        self._metrics = metrics
        self._now_ms = now_ms

    def growing(self, growth: Growth) -> None:
        """A model is to have more copies."""
        self._note(
            DecisionKind.SCALE_UP, growth.model_id, f"to have {growth.copies} copies: {growth.message}"
        )

    def grown(self, growth: Growth, added: int) -> None:
        """It has got some."""
        self._metrics.count_by("copies_added", growth.kind.value, number=added)

    def not_grown(self, growth: Growth, error: MeshError) -> None:
        """It has got none."""
        self._metrics.count_by("copies_not_added", growth.kind.value)
        message = f"no further copy ({growth.message}): {error.message}"
        self._ring.add(Decision(DecisionKind.REFUSAL, self._now_ms(), growth.model_id, message))
        log.warning(message, extra={"model": growth.model_id})

    def taken_away(self, surplus: Surplus) -> None:
        """A copy here is on its way out."""
        self._metrics.count_by("copies_removed", surplus.kind.value)
        self._note(DecisionKind.SCALE_DOWN, surplus.model_id, f"leaves: {surplus.message}")

    def moved(self, move: Move) -> None:
        """A copy here is loaded elsewhere, and on its way out."""
        self._metrics.count_by("copies_moved", move.kind.value)
        self._note(DecisionKind.MOVE, move.model_id, move.message)

    def _note(self, kind: DecisionKind, model_id: str, summary: str) -> None:
        self._ring.add(Decision(kind, self._now_ms(), model_id, summary))
        log.info(summary, extra={"model": model_id})
