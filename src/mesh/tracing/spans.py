"""Spans that Python makes, in whatever task the request has come to.

A task works for the trace that was entered in it or in the task that started it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from mesh.tracing.attributes import Attribute
from mesh.tracing.context import SpanContext, SpanKind

#: Spans kept until they are fetched; of more only the number is known.
MOST_SPANS = 4_096


@dataclass(frozen=True, slots=True)
class Span:
    """A span that ended.

    Attributes:
        parent_id: 0 for the first of a trace.
        began_ns: epoch nanoseconds.
        ended_ns: epoch nanoseconds.
        error: why it failed; None where it did not.
        links: spans that have to do with it without being its parent.
        state: W3C ``tracestate`` of the parent.
    """

    name: str
    kind: SpanKind
    context: SpanContext
    parent_id: int
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    error: str | None = None
    links: tuple[SpanContext, ...] = ()
    state: str = ""


class Spans:
    """Spans that ended in one instance and have not been fetched.

    Attributes:
        dropped: those for which there was no room.
    """

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self.dropped = 0

    def add(self, span: Span) -> None:
        """Keeps a span if there is room."""
        if len(self._spans) < MOST_SPANS:
            self._spans.append(span)
        else:
            self.dropped += 1

    def take(self) -> list[Span]:
        """The spans since the last time."""
        taken, self._spans = self._spans, []
        return taken


@dataclass(frozen=True, slots=True)
class _Place:
    spans: Spans
    context: SpanContext


_place: ContextVar[_Place | None] = ContextVar("trace", default=None)


def current() -> SpanContext | None:
    """The span on behalf of which the current task works; None where nothing is traced."""
    place = _place.get()
    return None if place is None else place.context


def trace_id() -> str:
    """The trace for which the current task works, 32 hexadecimal digits; empty where nothing is traced."""
    place = _place.get()
    return "" if place is None else place.context.trace_hex


def enter(spans: Spans, traceparent: str) -> None:
    """From now on the current task works on behalf of this span.

    Args:
        spans: gets what is made there.
        traceparent: as `SpanContext.traceparent`; empty where nothing is traced.
    """
    _place.set(_Place(spans, SpanContext.parse(traceparent)) if traceparent else None)


class OpenSpan:
    """A span that has not ended.

    Attributes:
        context: None where nothing is traced; then nothing here does anything.
    """

    __slots__ = (
        "_attributes",
        "_began_ns",
        "_error",
        "_kind",
        "_links",
        "_name",
        "_parent_id",
        "_spans",
        "context",
    )

    def __init__(
        self,
        place: _Place | None,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Attribute],
        links: tuple[SpanContext, ...],
    ) -> None:
        self.context: SpanContext | None = None
        if place is None:
            return
        self._spans: Spans | None = place.spans
        self.context = place.context.child()
        self._name = name
        self._kind = kind
        self._parent_id = place.context.span_id
        self._attributes = dict(attributes)
        self._links = links
        self._error: str | None = None
        self._began_ns = time.time_ns()

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        """Adds attributes."""
        if self.context is not None:
            self._attributes.update(attributes)

    def fail(self, why: str) -> None:
        """Marks it as failed."""
        if self.context is not None:
            self._error = why

    def end(self) -> None:
        """Ends it; later calls do nothing."""
        if self.context is None or self._spans is None:
            return
        spans, self._spans = self._spans, None
        spans.add(
            Span(
                self._name,
                self._kind,
                self.context,
                self._parent_id,
                self._began_ns,
                time.time_ns(),
                self._attributes,
                self._error,
                self._links,
            )
        )


_NOTHING: Mapping[str, Attribute] = {}


def begin(
    name: str,
    attributes: Mapping[str, Attribute] = _NOTHING,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    links: tuple[SpanContext, ...] = (),
) -> OpenSpan:
    """Begins a span, on behalf of which the current context works from now on; `OpenSpan.end` ends it."""
    place = _place.get()
    opened = OpenSpan(place, name, kind, attributes, links)
    if place is not None and opened.context is not None:
        _place.set(_Place(place.spans, opened.context))
    return opened


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, Attribute] = _NOTHING,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    links: tuple[SpanContext, ...] = (),
) -> Iterator[OpenSpan]:
    """Has what is done within be a span, which fails with it."""
    place = _place.get()
    opened = OpenSpan(place, name, kind, attributes, links)
    if place is None or opened.context is None:
        yield opened
        return
    token = _place.set(_Place(place.spans, opened.context))
    try:
        yield opened
    except BaseException as error:
        opened.fail(str(error) or type(error).__name__)
        raise
    finally:
        _place.reset(token)
        opened.end()


def record(name: str, took_ms: float, attributes: Mapping[str, Attribute] = _NOTHING) -> None:
    """Makes a span of what has just ended and took so long."""
    if (place := _place.get()) is not None:
        now_ns = time.time_ns()
        began_ns = now_ns - int(took_ms * 1_000_000)
        context, parent_id = place.context.child(), place.context.span_id
        place.spans.add(Span(name, SpanKind.INTERNAL, context, parent_id, began_ns, now_ns, attributes))
