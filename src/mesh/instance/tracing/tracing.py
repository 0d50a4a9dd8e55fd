"""Sends the spans of one instance to a collector, away from its requests."""

import asyncio
import importlib.util
import logging
import threading
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mesh.dataplane import DataPlane, TracedRequest
from mesh.instance.metrics import PREFIX, CounterFamily
from mesh.instance.settings import SettingError, Settings, TracingSettings
from mesh.instance.tracing.requests import spans_of
from mesh.tracing import Span, Spans

if TYPE_CHECKING:
    from mesh.tracing.otlp import OtlpExport

log = logging.getLogger(__name__)

#: How often the data plane is asked for what it has traced, seconds.
TAKE_EVERY_S = 0.5
#: An instance that ends gives the collector so long to take what is left, seconds; part of what follows handing over.
FLUSH_TIMEOUT_S = 3.0
#: Between two words in the log about spans that are lost, seconds.
COMPLAIN_EVERY_S = 60.0

_PACKAGES = (
    "opentelemetry.sdk",
    "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry.exporter.otlp.proto.grpc",
)


class Tracing(Collector):
    """The traces of one instance.

    Attributes:
        spans: takes those that are made here; the data plane's come by themselves.
    """

    def __init__(self, dataplane: DataPlane, export: "OtlpExport", spans: Spans) -> None:
        self._dataplane = dataplane
        self._export = export
        self.spans = spans
        self._requests_dropped = 0
        self._told_of: dict[str, int] = {}
        self._exporting = threading.Lock()

    async def run(self) -> None:
        """Sends until cancelled."""
        complain_at_s = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            await self._send()
            if clock() >= complain_at_s and self._complain():
                complain_at_s = clock() + COMPLAIN_EVERY_S
            await asyncio.sleep(TAKE_EVERY_S)

    async def _send(self) -> None:
        requests, self._requests_dropped = self._dataplane.take_traces()
        made = self.spans.take()
        if requests or made:
            # Thousands of them would hold the event loop up.
            await asyncio.to_thread(self._hand_over, requests, made)

    def _hand_over(self, requests: list[TracedRequest], made: list[Span]) -> None:
        # Its last batch may still be on its way when this instance is closed.
        with self._exporting:
            self._export.export([*made, *(span for request in requests for span in spans_of(request))])

    def _lost(self) -> dict[str, int]:
        # Of a request that was not fetched nobody knows how many spans it had.
        return {**self._export.exported.lost, "not_fetched": self._requests_dropped + self.spans.dropped}

    def _complain(self) -> bool:
        lost = self._lost()
        more = {reason: count for reason, count in lost.items() if count > self._told_of.get(reason, 0)}
        if more:
            log.warning(
                "traces have gaps: %s since the start; requests are not affected",
                ", ".join(f"{count} {reason}" for reason, count in more.items()),
            )
        self._told_of = lost
        return bool(more)

    def collect(self) -> Iterator[Metric]:
        """The families of traces."""
        sent = CounterFamily(f"{PREFIX}trace_spans_sent", "Spans that the collector of traces took")
        sent.add((), self._export.exported.sent)
        yield sent
        lost = CounterFamily(f"{PREFIX}trace_spans_lost", "Spans that no collector took", ["reason"])
        for reason, count in self._lost().items():
            lost.add([reason], count)
        yield lost

    async def close(self) -> None:
        """Sends what is left, within `FLUSH_TIMEOUT_S`."""
        await self._send()
        await asyncio.to_thread(self._export.close, FLUSH_TIMEOUT_S)
        self._complain()


def make_tracing(settings: Settings, dataplane: DataPlane) -> Tracing | None:
    """Has the data plane trace requests, where the settings say so.

    Raises:
        SettingError: they do, and the packages for it are not installed.
    """
    wanted = settings.tracing
    if not wanted.on or not _is_installed(wanted):
        return None
    from mesh.tracing.otlp import OtlpExport

    resource = {"service.name": settings.service_name, "service.instance.id": settings.instance_id}
    if settings.version:
        resource["service.version"] = settings.version
    export = OtlpExport(
        wanted.protocol,
        wanted.url,
        resource,
        max_queued=wanted.max_queued,
        version=version("model-mesh"),
    )
    share, follow_parents = wanted.sampling
    dataplane.set_tracing(share=share, follow_parents=follow_parents)
    log.info(
        "requests are traced", extra={"collector": wanted.url, "protocol": wanted.protocol, "share": share}
    )
    return Tracing(dataplane, export, Spans())


def _is_installed(wanted: TracingSettings) -> bool:
    try:
        missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    except ModuleNotFoundError:
        missing = list(_PACKAGES)
    if not missing:
        return True
    remedy = "install model-mesh[tracing], or set OTEL_TRACES_EXPORTER=none"
    if wanted.exporter == "otlp":
        raise SettingError(
            f"OTEL_TRACES_EXPORTER='otlp': the packages for tracing are not installed: {remedy}"
        )
    # It may have been set for all processes of a host, and not for this one.
    log.warning("a collector of traces is set, but nothing is traced: %s", remedy)
    return False
