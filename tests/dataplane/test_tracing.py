"""Requests that are traced: what the next hop sees of their context, and what is told of them."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import grpc
import grpc.aio
import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from mesh.dataplane import Ask, Call, DataPlane, TracedRequest
from tests.dataplane.harness import MODEL, Metadata, Plane, begin, call, channel, failure, planes, talk, until
from tests.dataplane.runtime import Runtime

SAMPLE = Decision.RECORD_AND_SAMPLE
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
NOT_SAMPLED = f"00-{TRACE}-{SPAN}-00"


@pytest.fixture
async def pair(runtime: Runtime) -> AsyncIterator[tuple[Plane, Plane]]:
    """Where requests come in, and where the copy of ``m`` is."""
    async with planes(2) as (entry, owner):
        entry.plane.set_route("m", [entry.peer(owner)])
        owner.plane.set_route("m", [owner.runtime(runtime.address)])
        for one in (entry, owner):
            one.plane.set_tracing(share=1.0, follow_parents=True)
        yield entry, owner


def sent(traceparent: str, **more: str) -> Metadata:
    return (*MODEL, ("traceparent", traceparent), *more.items())


def seen(runtime: Runtime) -> list[str]:
    """The context that the model server got with its newest request."""
    return str(runtime.seen[-1]["traceparent"]).split("-")


async def all_told(plane: DataPlane, count: int) -> list[TracedRequest]:
    """Requests that are told of, in the order in which they came in."""
    requests: list[TracedRequest] = []

    def are_there() -> bool:
        requests.extend(plane.take_traces()[0])
        return len(requests) >= count

    await until(are_there)
    assert len(requests) == count
    return sorted(requests, key=lambda request: request.began_ns)


async def told(plane: DataPlane) -> TracedRequest:
    """The only request that is told of."""
    (request,) = await all_told(plane, 1)
    return request


async def test_each_hop_is_the_child_of_the_one_before(pair: tuple[Plane, Plane], runtime: Runtime) -> None:
    entry, owner = pair
    async with channel(entry.clients) as client:
        await call(client, "Unary", metadata=sent(SAMPLED, tracestate="vendor=1"))
    first, second = await told(entry.plane), await told(owner.plane)

    assert {first.trace_id, second.trace_id} == {int(TRACE, 16)}
    assert (first.parent_id, first.from_peer, first.code) == (int(SPAN, 16), False, "OK")
    assert (first.method, first.model_id, first.state) == ("test.Echo/Unary", "m", "vendor=1")
    (forward,) = first.steps
    assert (forward.kind, forward.target, forward.address) == ("forward", "peer", owner.peers)
    assert (second.parent_id, second.from_peer) == (forward.span_id, True)
    (served,) = second.steps
    assert (served.kind, served.address, served.code) == ("runtime", runtime.address, "OK")
    assert seen(runtime) == ["00", TRACE, f"{served.span_id:016x}", "01"]
    assert runtime.seen[-1]["tracestate"] == "vendor=1"
    times = (first.began_ns, forward.began_ns, second.began_ns, served.began_ns)
    # Each process tells its own clock.
    assert first.began_ns <= forward.began_ns <= forward.ended_ns <= first.ended_ns, times
    assert second.began_ns <= served.began_ns <= served.ended_ns <= second.ended_ns, times


async def test_a_trace_begins_here_where_none_was_sent(pair: tuple[Plane, Plane], runtime: Runtime) -> None:
    entry, owner = pair
    bad: Metadata = (*MODEL, ("traceparent", "00-nonsense"), ("tracestate", "vendor=1"))
    for metadata in (MODEL, bad):
        async with channel(entry.clients) as client:
            await call(client, "Unary", metadata=metadata)
        first, second = await told(entry.plane), await told(owner.plane)
        assert (first.parent_id, second.parent_id) == (0, first.steps[0].span_id)
        version, trace, span, flags = seen(runtime)
        # 1 is sampled, 2 that the id is random.
        assert (version, int(trace, 16), int(span, 16), flags) == (
            "00",
            first.trace_id,
            second.steps[0].span_id,
            "03",
        )
        assert "tracestate" not in runtime.seen[-1]


async def test_a_parent_that_is_not_sampled_is_left_alone(
    pair: tuple[Plane, Plane], runtime: Runtime
) -> None:
    entry, owner = pair
    async with channel(entry.clients) as client:
        await call(client, "Unary", metadata=sent(NOT_SAMPLED, tracestate="vendor=1"))
    assert (runtime.seen[-1]["traceparent"], runtime.seen[-1]["tracestate"]) == (NOT_SAMPLED, "vendor=1")
    assert entry.plane.take_traces() == owner.plane.take_traces() == ([], 0)


async def test_what_is_not_sampled_where_it_comes_in_is_not_sampled_further_down(
    pair: tuple[Plane, Plane], runtime: Runtime
) -> None:
    entry, owner = pair
    entry.plane.set_tracing(share=0.0, follow_parents=True)
    async with channel(entry.clients) as client:
        await call(client, "Unary")
    assert seen(runtime)[3] == "02"
    assert owner.plane.take_traces() == ([], 0)


async def test_a_share_is_that_of_opentelemetrys_own_sampler(plane: Plane, client: grpc.aio.Channel) -> None:
    other = TraceIdRatioBased(0.3)
    plane.plane.set_tracing(share=other.rate, follow_parents=False)
    ids = [Random(number).getrandbits(128) for number in range(200)]
    for trace_id in ids:
        await call(client, "Unary", metadata=sent(f"00-{trace_id:032x}-{SPAN}-00"))
    sampled = {trace_id for trace_id in ids if other.should_sample(None, trace_id, "").decision is SAMPLE}
    assert {request.trace_id for request in await all_told(plane.plane, len(sampled))} == sampled
    assert 30 < len(sampled) < 90


async def test_without_tracing_contexts_go_through_as_they_are(
    plane: Plane, client: grpc.aio.Channel, runtime: Runtime
) -> None:
    for traceparent in (SAMPLED, "00-nonsense"):
        await call(client, "Unary", metadata=sent(traceparent, tracestate="vendor=1"))
        assert (runtime.seen[-1]["traceparent"], runtime.seen[-1]["tracestate"]) == (traceparent, "vendor=1")
    await call(client, "Unary")
    assert "traceparent" not in runtime.seen[-1]
    assert plane.plane.take_traces() == ([], 0)


def traced(plane: Plane) -> None:
    plane.plane.set_tracing(share=1.0, follow_parents=True)


async def test_a_stream_is_one_span_as_long_as_it_lasts(plane: Plane, client: grpc.aio.Channel) -> None:
    traced(plane)
    stream = talk(client, metadata=sent(SAMPLED))
    await stream.write(b"a")
    assert await stream.read() == b"a"
    assert plane.plane.take_traces() == ([], 0)
    await stream.done_writing()
    assert await stream.code() == grpc.StatusCode.OK
    request = await told(plane.plane)
    assert [step.kind for step in request.steps] == ["runtime"]


async def test_failures_are_told_with_their_status(
    plane: Plane, client: grpc.aio.Channel, runtime: Runtime
) -> None:
    traced(plane)
    await failure(call(client, "Fail", metadata=(*MODEL, ("code", "3"), ("message", "no"))))
    request = await told(plane.plane)
    assert (request.code, request.steps[0].code) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")

    await failure(call(client, "Unary", metadata=()))
    request = await told(plane.plane)
    assert (request.code, request.message) == ("INVALID_ARGUMENT", "must include mm-model-id header")

    waiting = begin(client, "Wait")
    await until(lambda: runtime.running == 1)
    waiting.cancel()
    request = await told(plane.plane)
    assert (request.code, request.steps[0].code) == ("CANCELLED", "CANCELLED")


async def test_waiting_for_a_slot_is_a_step(plane: Plane, client: grpc.aio.Channel, runtime: Runtime) -> None:
    traced(plane)
    plane.plane.set_route("m", plane.plane.route("m"), max_concurrency=1, max_queued=-1)
    one, other = begin(client, "Wait"), begin(client, "Wait")
    await until(lambda: plane.plane.totals().queued == 1)
    runtime.release.set()
    await asyncio.gather(one, other)
    requests = await all_told(plane.plane, 2)
    kinds = sorted([step.kind for step in request.steps] for request in requests)
    assert kinds == [["queue", "runtime"], ["runtime"]]


async def test_a_decision_is_a_step_which_others_that_wait_for_it_link_to(
    plane: Plane, client: grpc.aio.Channel
) -> None:
    traced(plane)
    route = plane.plane.route("m")
    plane.plane.remove_route("m")
    waiting = [begin(client, "Unary", metadata=sent(SAMPLED))]
    ask = await plane.asked()
    waiting.append(begin(client, "Unary"))
    await until(lambda: plane.plane.totals().waiting == 2)
    plane.plane.set_route("m", route)
    plane.plane.answer_route(ask.token)
    await asyncio.gather(*waiting)
    first, second = await all_told(plane.plane, 2)
    asked, joined = first.steps[0], second.steps[0]
    assert (asked.kind, asked.reason, asked.code, asked.joined) == ("ask", "no_route", "OK", None)
    assert ask.traceparent.split("-")[1:3] == [TRACE, f"{asked.span_id:016x}"]
    assert (ask.context["trace_id"], ask.context["span_id"]) == (TRACE, f"{first.span_id:016x}")
    assert joined.joined == (first.trace_id, asked.span_id)


async def test_an_attempt_that_came_to_nothing_is_told_with_its_reason(plane: Plane) -> None:
    traced(plane)
    nowhere = plane.plane.add_endpoint("127.0.0.1:1", "peer", "gone")
    plane.plane.set_route("m", [nowhere])

    def decide(ask: Ask) -> None:
        plane.plane.answer_status(ask.token, 14, "nobody is left")

    plane.decide = decide
    async with channel(plane.clients) as client:
        await failure(call(client, "Unary"))
    request = await told(plane.plane)
    assert [(step.kind, step.code) for step in request.steps] == [
        ("forward", "UNAVAILABLE"),
        ("ask", "UNAVAILABLE"),
    ]
    assert "127.0.0.1:1" in request.steps[0].message
    assert (request.steps[1].reason, request.steps[1].message) == ("unreachable", "nobody is left")


async def test_what_nobody_fetches_is_bounded_and_counted(plane: Plane, client: grpc.aio.Channel) -> None:
    traced(plane)
    for _ in range(21):
        await asyncio.gather(*(call(client, "Unary") for _ in range(100)))
    await until(lambda: plane.plane.totals().streams == 0)
    requests, dropped = plane.plane.take_traces()
    assert (len(requests), dropped) == (2_048, 52)


async def test_management_calls_are_traced_where_their_caller_does_so(
    plane: Plane, client: grpc.aio.Channel
) -> None:
    traced(plane)
    plane.plane.set_control("127.0.0.1:1", ["/mmesh.ModelMesh/"], [], ["/mmesh.ModelMesh/getModelStatus"])
    fetched: list[Call] = []

    def fetch() -> bool:
        new = plane.plane.take_calls()
        fetched.extend(new)
        return bool(new)

    for metadata in ((), (("traceparent", SAMPLED),)):
        answer = begin(client, "/mmesh.ModelMesh/getModelStatus", metadata=metadata)
        await until(fetch)
        plane.plane.answer_call(fetched[-1].token, b"")
        await answer
    request = await told(plane.plane)
    assert (request.method, request.code, request.parent_id) == (
        "mmesh.ModelMesh/getModelStatus",
        "OK",
        int(SPAN, 16),
    )
    assert [call.traceparent for call in fetched] == ["", f"00-{TRACE}-{request.span_id:016x}-01"]


async def test_logged_failures_carry_their_trace(plane: Plane, client: grpc.aio.Channel) -> None:
    traced(plane)
    await failure(call(client, "Fail", metadata=(*sent(SAMPLED), ("code", "3"))))
    request = await told(plane.plane)
    (entry,), _ = plane.plane.take_log()
    assert entry.context == {"trace_id": TRACE, "span_id": f"{request.span_id:016x}"}


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    plane = DataPlane()
    with pytest.raises(ValueError, match="share: must be 0 to 1"):
        plane.set_tracing(share=share, follow_parents=True)
