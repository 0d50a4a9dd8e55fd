"""Traces: in which one the current task works, the spans made there, and their way to a collector.

Any room may make a `span` of what it does. Where the request that caused the work is not traced, that costs a look at
a context variable. The packages of ``model-mesh[tracing]`` are needed by `mesh.tracing.otlp` alone.
"""

from mesh.tracing.attributes import MODEL, Attribute, of_call, of_server
from mesh.tracing.context import SpanContext, SpanKind
from mesh.tracing.spans import OpenSpan, Span, Spans, begin, current, enter, record, span, trace_id

__all__ = [
    "MODEL",
    "Attribute",
    "OpenSpan",
    "Span",
    "SpanContext",
    "SpanKind",
    "Spans",
    "begin",
    "current",
    "enter",
    "of_call",
    "of_server",
    "record",
    "span",
    "trace_id",
]
