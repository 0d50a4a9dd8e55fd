"""Spans that are made in whatever task a request has come to."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.tracing import Span, SpanContext, SpanKind, Spans, begin, current, enter, record, span, trace_id
from mesh.tracing.spans import MOST_SPANS

PARENT = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)


def _below(spans: list[Span], parent_id: int) -> set[str]:
    return {one.name for one in spans if one.parent_id == parent_id}


async def test_spans_are_below_the_one_that_their_task_works_for() -> None:
    spans = Spans()
    enter(spans, PARENT.traceparent)

    async def work(name: str) -> None:
        with span(name):
            await asyncio.sleep(0)
            with span(f"{name} inside"):
                await asyncio.sleep(0)

    with span("outer") as outer:
        await asyncio.gather(work("one"), work("other"))
    record("after", 2.0)
    made = spans.take()
    by_name = {one.name: one for one in made}
    assert outer.context is not None
    assert _below(made, PARENT.span_id) == {"outer", "after"}
    assert _below(made, outer.context.span_id) == {"one", "other"}
    assert _below(made, by_name["one"].context.span_id) == {"one inside"}
    assert {one.context.trace_id for one in made} == {PARENT.trace_id}
    assert (
        by_name["outer"].began_ns
        <= by_name["one"].began_ns
        <= by_name["one"].ended_ns
        <= by_name["outer"].ended_ns
    )
    assert by_name["after"].ended_ns - by_name["after"].began_ns == 2_000_000
    assert current() == PARENT


async def test_a_span_fails_with_what_is_done_in_it() -> None:
    spans = Spans()
    enter(spans, PARENT.traceparent)
    with pytest.raises(KeyError), span("outer"), span("inner"):
        raise KeyError("weights")

    async def wait() -> None:
        with span("cancelled"):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    failed = {one.name: one.error for one in spans.take()}
    assert failed == {"inner": "'weights'", "outer": "'weights'", "cancelled": "CancelledError"}


async def test_where_nothing_is_traced_nothing_is_made() -> None:
    spans = Spans()
    enter(spans, PARENT.traceparent)
    enter(spans, "")
    with span("one") as one:
        one.set({"a": 1})
        one.fail("why")
    opened = begin("other")
    opened.end()
    record("third", 1.0)
    assert (one.context, opened.context, current(), trace_id(), spans.take()) == (None, None, None, "", [])


async def test_a_span_that_is_begun_ends_once() -> None:
    spans = Spans()
    enter(spans, PARENT.traceparent)
    opened = begin("load", {"a": "b"})
    opened.set({"c": 1})
    with span("part"):
        pass
    opened.end()
    opened.end()
    part, load = spans.take()
    assert (part.parent_id, load.name, load.attributes) == (load.context.span_id, "load", {"a": "b", "c": 1})


def test_what_nobody_fetches_is_bounded_and_counted() -> None:
    spans = Spans()
    one = Span("one", SpanKind.INTERNAL, PARENT, 0, 1, 2)
    for _ in range(MOST_SPANS + 5):
        spans.add(one)
    assert (len(spans.take()), spans.dropped, spans.take()) == (MOST_SPANS, 5, [])


@given(trace=st.integers(1, 2**128 - 1), parent=st.integers(1, 2**64 - 1))
def test_a_context_is_read_as_it_was_written(trace: int, parent: int) -> None:
    context = SpanContext(trace, parent)
    assert SpanContext.parse(context.traceparent) == context
    child = context.child()
    assert child.trace_id == trace
    assert child.span_id != parent
    with pytest.raises(ValueError, match="traceparent"):
        SpanContext.parse(context.traceparent[:-1])
