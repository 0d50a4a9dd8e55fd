"""Spans on their way to a collector, by OpenTelemetry's SDK. Needs the packages of ``model-mesh[tracing]``."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from mesh.tracing.context import SpanContext, SpanKind
from mesh.tracing.spans import Span

Protocol = Literal["grpc", "http/protobuf"]

_KINDS = {
    SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
    SpanKind.SERVER: trace.SpanKind.SERVER,
    SpanKind.CLIENT: trace.SpanKind.CLIENT,
}
_SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of spans so far.

    Attributes:
        sent: spans that the collector took.
        lost: spans that are lost, by reason: ``queue_full``, ``export_failed`` or ``shutdown``.
    """

    sent: int
    lost: Mapping[str, int]


class OtlpExport:
    """Sends spans in batches, from a thread of the SDK's.

    What is not said here, such as headers, certificates and timeouts, the SDK reads from its own environment variables.

    Args:
        protocol: of OTLP.
        endpoint: URL of the collector, with the path of traces where the protocol is HTTP.
        resource: describes this process where the environment does not.
        max_queued: spans that wait for the collector or are on their way to it, at most; further ones are lost.
        version: of the mesh.
    """

    def __init__(
        self,
        protocol: Protocol,
        endpoint: str,
        resource: Mapping[str, str],
        *,
        max_queued: int,
        version: str,
    ) -> None:
        self._max_queued = max_queued
        self._exporter = _Counting(_exporter(protocol, endpoint))
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            # What the environment says goes before what is known here.
            resource=Resource.create({**resource, **OTELResourceDetector().detect().attributes}),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter, max_queue_size=max_queued))
        self._tracer = self._provider.get_tracer("mesh", version)
        self._handed = 0
        self._queue_full = 0
        self._abandoned = 0

    @property
    def exported(self) -> Exported:
        """What became of the spans so far."""
        lost = {
            "queue_full": self._queue_full,
            "export_failed": self._exporter.failed,
            "shutdown": self._abandoned,
        }
        return Exported(self._exporter.sent, lost)

    def export(self, spans: Sequence[Span]) -> None:
        """Has spans sent soon; takes some time for each, and waits for nothing. Not for two threads at once."""
        room = self._max_queued - (self._handed - self._exporter.settled)
        for span in spans[:room]:
            self._hand_over(span)
        self._handed += min(room, len(spans))
        self._queue_full += max(0, len(spans) - room)

    def _hand_over(self, span: Span) -> None:
        self._ids.given = span.context
        sdk_span = self._tracer.start_span(
            span.name,
            context=_parent(span),
            kind=_KINDS[span.kind],
            attributes=span.attributes,
            links=[trace.Link(_known(link)) for link in span.links],
            start_time=span.began_ns,
        )
        if span.error is not None:
            sdk_span.set_status(trace.StatusCode.ERROR, span.error)
        sdk_span.end(span.ended_ns)

    def close(self, timeout_s: float) -> None:
        """Sends what is left, for so long at most; what has not arrived by then is lost."""
        until = time.monotonic() + timeout_s
        # The SDK's own limits are longer than an instance has, and an interpreter that ends waits for no such thread.
        ending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            # Ends the wait between two attempts.
            self._exporter.shutdown()
            ending.join(max(0.0, until + 0.5 - time.monotonic()))
        self._abandoned = self._handed - self._exporter.settled


class _GivenIds(IdGenerator):
    """Gives the ids that a span has already; the next hop has seen them."""

    given: SpanContext

    def generate_trace_id(self) -> int:
        return self.given.trace_id

    def generate_span_id(self) -> int:
        return self.given.span_id


class _Counting(SpanExporter):
    """Counts what another exporter does."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._ended = False
        self.sent = 0
        self.failed = 0

    @property
    def settled(self) -> int:
        return self.sent + self.failed

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export(spans)
        except Exception:
            # The SDK logs it.
            self.failed += len(spans)
            raise
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        if not self._ended:
            self._ended = True
            self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def _exporter(protocol: Protocol, endpoint: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc(endpoint=endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

    return OverHttp(endpoint=endpoint)


def _parent(span: Span) -> Context:
    if not span.parent_id:
        return Context()
    state = trace.TraceState.from_header([span.state]) if span.state else None
    parent = trace.SpanContext(span.context.trace_id, span.parent_id, True, _SAMPLED, state)
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())


def _known(link: SpanContext) -> trace.SpanContext:
    return trace.SpanContext(link.trace_id, link.span_id, True, _SAMPLED)
