"""Tells what happened to the copies here: in the ring of decisions, in metrics and in the log."""

import logging
from collections.abc import Callable

from mesh.instance.metrics import Metrics
from mesh.placement import (
    UNIT_BYTES,
    CopyView,
    Decision,
    DecisionKind,
    DecisionRing,
    Deregister,
    EvictionReason,
    Refusal,
    ReportCapacityLost,
    ReportEvicted,
    ReportFailed,
    ReportRefused,
    ReportSize,
    SizeSource,
    is_off,
)
from mesh.tracing import trace_id

log = logging.getLogger(__name__)

_MIB = 1 << 20


class Chronicle:
    """What one instance did with its copies, and why.

    Args:
        ring: takes the decisions.
        now_ms: epoch milliseconds.
    """

    def __init__(self, ring: DecisionRing, metrics: Metrics, now_ms: Callable[[], int]) -> None:
        self._ring = ring
        self._metrics = metrics
        self._now_ms = now_ms
        self._evicted_for: dict[str, list[str]] = {}
        self._load_watchers: list[Callable[[str, bool], None]] = []
        self._eviction_watchers: list[Callable[[ReportEvicted], None]] = []

    def watch_loads(self, watcher: Callable[[str, bool], None]) -> None:
        """Has a function called with a model's id and whether it was loaded, whenever a load here ends so."""
        self._load_watchers.append(watcher)

    def watch_evictions(self, watcher: Callable[[ReportEvicted], None]) -> None:
        """Has a function called whenever a copy here was evicted."""
        self._eviction_watchers.append(watcher)

    def loaded(self, model_id: str, units: int, copy: CopyView | None) -> None:
        """A copy is there now; those evicted for it are named with it."""
        self._metrics.observe("loaded_model_size_bytes", units * UNIT_BYTES, model_id)
        evicted = tuple(self._evicted_for.pop(model_id, ()))
        why = f": {copy.why}" if copy is not None and copy.why else ""
        self._note(DecisionKind.LOAD, model_id, f"loaded, {_size(units)}{why}", evicted, trace_id())
        log.info("loaded", extra={"model": model_id, "bytes": units * UNIT_BYTES})
        self._load_ended(model_id, True)

    def sized(self, report: ReportSize) -> None:
        """A model server told how large a copy is; whoever counts on sizes should know where that was not expected."""
        expected, actual = report.expected_units, report.units
        if expected:
            self._metrics.observe("model_size_ratio", actual / expected, report.model_id, report.source.value)
        if not is_off(expected, actual):
            return
        self._metrics.count_by(
            "model_size_misjudged", report.source.value, "low" if actual > expected else "high"
        )
        further = ", which is counted further" if report.source is SizeSource.DECLARED else ""
        summary = f"takes {_size(actual)}, the {report.source.value} size was {_size(expected)}{further}"
        self._note(DecisionKind.SIZE, report.model_id, summary)
        level = (
            logging.WARNING if actual > expected and report.source is not SizeSource.DEFAULT else logging.INFO
        )
        log.log(level, "size misjudged: %s", summary, extra={"model": report.model_id})

    def failed(self, report: ReportFailed) -> None:
        """A load failed just now, or an earlier failure was told again."""
        self._evicted_for.pop(report.model_id, None)
        if report.fresh:
            self._note(
                DecisionKind.FAILURE, report.model_id, f"load failed: {report.message}", trace=trace_id()
            )
            log.error("load failed: %s", report.message, extra={"model": report.model_id})
            self._load_ended(report.model_id, False)

    def refused(self, report: ReportRefused) -> None:
        """A load was refused."""
        self._evicted_for.pop(report.model_id, None)
        if report.reason is Refusal.CHURN:
            self._metrics.count("churn_refused")
        self._note(DecisionKind.REFUSAL, report.model_id, f"not loaded: {report.message}")

    def evicted(self, report: ReportEvicted) -> None:
        """A copy was evicted."""
        self._metrics.observe("age_at_eviction_milliseconds", report.age_ms, report.model_id)
        self._metrics.count_by("evictions", report.reason.value)
        summary = (
            f"evicted ({report.reason.value}), {_size(report.units)}, "
            f"last used {report.age_ms / 1_000:.1f} s before"
        )
        if report.for_model:
            if report.reason is EvictionReason.ROOM:
                # Told when the model is loaded or not; that of one which is there already has been told.
                self._evicted_for.setdefault(report.for_model, []).append(report.model_id)
            summary += f", to make room for {report.for_model}"
        summary += f"; {report.why}"
        self._note(
            DecisionKind.EVICTION, report.model_id, summary, (report.for_model,) if report.for_model else ()
        )
        log.info(summary, extra={"model": report.model_id})
        for watcher in self._eviction_watchers:
            watcher(report)

    def source_changed(self, model_id: str, change: str) -> None:
        """The data of a copy here is not in storage any more as it was loaded."""
        summary = (
            f"the model's data in storage has changed since it was loaded: {change}; copies loaded from now on would "
            "differ from those that are there. Register new data as another model and move its vmodel to it, or "
            "register this one anew"
        )
        self._note(DecisionKind.SOURCE, model_id, summary)
        log.warning(summary, extra={"model": model_id})

    def left(self, order: Deregister) -> None:
        """A copy is taken out of the registry."""
        self._note(DecisionKind.UNLOAD, order.model_id, f"leaves: {order.why}")

    def capacity_lost(self, report: ReportCapacityLost) -> None:
        """An unload was given up."""
        self._metrics.count("unloadmodel_failure")
        message = (
            f"gave up unloading after {report.attempts} attempts; {_size(report.units)} of memory "
            f"are not counted on any more: {report.message}"
        )
        self._note(DecisionKind.FAILURE, report.model_id, message)
        log.error(message, extra={"model": report.model_id})

    def _load_ended(self, model_id: str, loaded: bool) -> None:
        for watcher in self._load_watchers:
            watcher(model_id, loaded)

    def _note(
        self,
        kind: DecisionKind,
        model_id: str,
        summary: str,
        related: tuple[str, ...] = (),
        trace: str = "",
    ) -> None:
        decision = Decision(kind, self._now_ms(), model_id, summary, related_models=related, trace_id=trace)
        self._ring.add(decision)


def _size(units: int) -> str:
    return f"{units * UNIT_BYTES / _MIB:.1f} MiB"
