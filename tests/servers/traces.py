"""A collector of traces: OpenTelemetry's own services over gRPC and HTTP, keeping what they are sent."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it was sent.

    Attributes:
        resource: describes who sent it.
        parent_id: empty for the first of a trace.
        links: trace ids and span ids.
        failed: its status is an error, of which ``message`` tells more.
    """

    name: str
    kind: str
    resource: dict[str, Any]
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    failed: bool
    message: str
    state: str

    @property
    def instance(self) -> str:
        return str(self.resource["service.instance.id"])


class Traces(TraceServiceServicer):
    """Listens for both protocols of OTLP. Use as an async context manager.

    Attributes:
        headers: of the newest request.
        refuse: what requests are answered with, in place of being taken.
    """

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.headers: dict[str, str] = {}
        self.refuse: grpc.StatusCode | None = None

    async def __aenter__(self) -> Self:
        self._grpc = grpc.aio.server()
        add_TraceServiceServicer_to_server(self, self._grpc)  # type: ignore[no-untyped-call]
        self.grpc_url = f"http://127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"
        await self._grpc.start()
        app = web.Application()
        app.router.add_post("/v1/traces", self._post)
        self._http = web.AppRunner(app)
        await self._http.setup()
        await web.TCPSite(self._http, "127.0.0.1", 0).start()
        self.http_url = f"http://127.0.0.1:{self._http.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._grpc.stop(0)
        await self._http.cleanup()

    async def Export(  # noqa: N802
        self, request: ExportTraceServiceRequest, context: Any
    ) -> ExportTraceServiceResponse:
        self.headers = {name: str(value) for name, value in context.invocation_metadata()}
        if self.refuse is not None:
            await context.abort(self.refuse, "no")
        self._take(request)
        return ExportTraceServiceResponse()

    async def _post(self, request: web.Request) -> web.Response:
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        assert self.headers["content-type"] == "application/x-protobuf"
        self._take(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    def _take(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            resource = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                assert scope.scope.name == "mesh"
                self.spans.extend(_received(span, resource) for span in scope.spans)

    def of(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of one trace, in the order in which they began."""
        return sorted(
            (span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.began_ns
        )

    async def wait_for(
        self, trace_id: str, are_all: Callable[[list[ReceivedSpan]], bool], timeout_s: float = 20.0
    ) -> list[ReceivedSpan]:
        """Waits for a trace's spans; they come from several processes, each in its own time."""
        async with asyncio.timeout(timeout_s):
            while not are_all(self.of(trace_id)):
                await asyncio.sleep(0.05)
        return self.of(trace_id)


def tree(spans: Sequence[ReceivedSpan], below: str) -> list[Any]:
    """The names of the spans below one, each with those below itself, in the order in which they began."""
    return [
        [span.name, *deeper] if (deeper := tree(spans, span.span_id)) else span.name
        for span in spans
        if span.parent_id == below
    ]


def _received(span: trace_pb2.Span, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        resource=resource,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes=_plain(span.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        message=span.status.message,
        state=span.trace_state,
    )


def _plain(attributes: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Any:
    if value.WhichOneof("value") == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, value.WhichOneof("value") or "string_value")
