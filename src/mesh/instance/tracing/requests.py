"""The spans of a request that the data plane has traced."""

from collections.abc import Iterator
from dataclasses import replace

from mesh.dataplane import TracedRequest, TracedStep
from mesh.tracing import MODEL, Attribute, Span, SpanContext, SpanKind, of_call, of_server

#: A server's own failures; the rest are the caller's affair.
_SERVER_ERRORS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)

_NAMES = {"queue": "mesh.queue", "ask": "mesh.miss", "forward": "mesh.forward", "runtime": "mesh.runtime"}


def spans_of(request: TracedRequest) -> Iterator[Span]:
    """The request's own span, and one for each of its steps."""
    attributes: dict[str, Attribute] = {**of_call(request.method, request.code)}
    if request.model_id:
        attributes[MODEL] = request.model_id
    if request.vmodel_id:
        attributes["mesh.vmodel.id"] = request.vmodel_id
    if request.from_peer:
        attributes["mesh.from_peer"] = True
    yield Span(
        request.method,
        SpanKind.SERVER,
        SpanContext(request.trace_id, request.span_id),
        request.parent_id,
        request.began_ns,
        request.ended_ns,
        attributes,
        (request.message or request.code) if request.code in _SERVER_ERRORS else None,
        state=request.state,
    )
    for step in request.steps:
        yield _step(step, request)


def _step(step: TracedStep, request: TracedRequest) -> Span:
    attributes: dict[str, Attribute] = {}
    if request.model_id:
        attributes[MODEL] = request.model_id
    span = Span(
        _NAMES[step.kind],
        SpanKind.INTERNAL,
        SpanContext(request.trace_id, step.span_id),
        request.span_id,
        step.began_ns,
        step.ended_ns,
        attributes,
        (step.message or step.code) if step.code not in {"", "OK"} else None,
        () if step.joined is None else (SpanContext(*step.joined),),
    )
    match step.kind:
        case "ask":
            attributes["mesh.miss.reason"] = step.reason
        case "forward" | "runtime":
            attributes |= {**of_call(request.method, step.code), **of_server(step.address)}
            if step.kind == "forward":
                attributes["mesh.peer"] = step.target
            return replace(span, kind=SpanKind.CLIENT)
    return span
