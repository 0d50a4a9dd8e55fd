"""What Python is asked, and what becomes of its answers."""

import asyncio

import grpc
import grpc.aio
import pytest

from mesh.dataplane import Ask
from tests.dataplane.harness import MODEL, Plane, begin, call, channel, failure, planes, until
from tests.dataplane.runtime import DETAILS, Runtime

UNKNOWN = (("mm-model-id", "n"),)


async def test_a_thousand_requests_for_one_model_are_one_ask(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    answers = [asyncio.create_task(call(client, "Unary", metadata=UNKNOWN)) for _ in range(1000)]
    await until(lambda: plane.plane.totals().waiting == 1000)
    await plane.asked()
    (ask,) = plane.asks
    assert (ask.reason, ask.model_id, ask.is_vmodel, ask.from_peer) == ("no_route", "n", False, False)
    assert (ask.method, ask.endpoint, ask.code, ask.attempt, ask.tried) == ("test.Echo/Unary", -1, -1, 0, [])
    assert 0 < ask.deadline_ms <= 20_000
    assert ask.sent_ms_ago == -1
    plane.plane.set_route("n", [plane.runtime(runtime.address)])
    plane.plane.answer_route(ask.token)
    assert await asyncio.gather(*answers) == [b"hello"] * 1000


async def test_large_requests_wait_too(plane: Plane, client: grpc.aio.Channel, runtime: Runtime) -> None:
    request = bytes(range(256)) * 2400
    answer = asyncio.create_task(call(client, "Unary", request, metadata=UNKNOWN))
    ask = await plane.asked()
    plane.plane.answer_endpoint(ask.token, plane.runtime(runtime.address))
    assert await answer == request


async def test_an_ask_that_nobody_waits_for_any_more_is_not_delivered() -> None:
    async with planes() as (made,), channel(made.clients) as client:
        asyncio.get_running_loop().remove_reader(made.plane.event_fd)
        waiting = begin(client, "Wait", metadata=UNKNOWN)
        await until(lambda: made.plane.totals().waiting == 1)
        waiting.cancel()
        await until(lambda: made.plane.totals().waiting == 0)
        assert made.plane.take_events() == []


@pytest.mark.parametrize("balanced", ["true", "false"])
async def test_the_callers_own_balancing_is_told(
    plane: Plane, client: grpc.aio.Channel, balanced: str
) -> None:
    plane.decide = lambda ask: plane.plane.answer_status(ask.token, 5, "model not found")
    await failure(call(client, "Unary", metadata=(*UNKNOWN, ("mm-balanced", balanced))))
    assert plane.asks[0].balanced == (balanced == "true")


async def test_a_status_with_details(plane: Plane, client: grpc.aio.Channel) -> None:
    plane.decide = lambda ask: plane.plane.answer_status(ask.token, 5, "modèle inconnu: 100%\n", DETAILS)
    error = await failure(call(client, "Unary", metadata=UNKNOWN))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "modèle inconnu: 100%\n")
    assert dict(error.trailing_metadata())["grpc-status-details-bin"] == DETAILS


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (5, "whatever", "lost"),
        (14, "Request for unknown model: 'x' is not found", "lost"),
        (14, "busy", "unavailable"),
        (8, "out of memory", "exhausted"),
        (14, "Request for unknown model", "unavailable"),
    ],
)
async def test_answers_of_the_runtime_that_ask_for_a_decision(
    plane: Plane,
    client: grpc.aio.Channel,
    code: int,
    message: str,
    reason: str,
) -> None:
    plane.plane.set_status_rules(
        [
            (5, "", "", "lost"),
            (14, "Request for unknown model", "is not found", "lost"),
            (14, "", "", "unavailable"),
            (8, "", "", "exhausted"),
        ]
    )
    plane.decide = lambda ask: plane.plane.answer_held(ask.token)
    metadata = (*MODEL, ("code", str(code)), ("message", message))
    error = await failure(call(client, "Fail", metadata=metadata))
    # Held back, asked about, and given back as it was.
    assert (error.code().value[0], error.details()) == (code, message)
    trailers = dict(error.trailing_metadata())
    assert (trailers["last"], trailers["grpc-status-details-bin"]) == ("2", DETAILS)
    (ask,) = plane.asks
    assert (ask.reason, ask.code, ask.message, ask.attempt) == (reason, code, message, 1)
    assert ask.tried == [ask.endpoint]
    assert 0 <= ask.sent_ms_ago < 20_000


async def test_a_lost_model_is_sent_again_when_it_is_back(
    plane: Plane, client: grpc.aio.Channel, runtime: Runtime
) -> None:
    plane.plane.set_status_rules([(5, "", "", "lost")])
    request = bytes(600 << 10)
    async with Runtime() as other:
        there = plane.runtime(other.address)

        def decide(ask: Ask) -> None:
            plane.plane.answer_endpoint(ask.token, there)

        plane.decide = decide
        error = await failure(call(client, "Fail", request, metadata=(*MODEL, ("code", "5"))))
        # The second runtime fails likewise; by then it was tried twice.
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert len(other.seen) > 1


async def test_an_endpoint_that_cannot_be_reached(
    plane: Plane, client: grpc.aio.Channel, runtime: Runtime
) -> None:
    nowhere = plane.runtime("127.0.0.1:1")
    plane.plane.set_route("n", [nowhere])
    good = plane.runtime(runtime.address)
    plane.decide = lambda ask: plane.plane.answer_endpoint(ask.token, good)
    request = bytes(300_000)
    assert await call(client, "Unary", request, metadata=UNKNOWN) == request
    (ask,) = plane.asks
    assert (ask.reason, ask.endpoint, ask.tried, ask.attempt) == ("unreachable", nowhere, [nowhere], 0)
    assert "127.0.0.1:1" in ask.message


async def test_a_connection_that_breaks_before_the_answer(plane: Plane, client: grpc.aio.Channel) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        await reader.read(1000)
        await asyncio.sleep(0.1)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    broken = plane.runtime(f"127.0.0.1:{port}")
    plane.plane.set_route("n", [broken])
    plane.decide = lambda ask: plane.plane.answer_status(ask.token, 14, ask.reason)
    error = await failure(call(client, "Unary", metadata=UNKNOWN))
    assert error.details() == "broken"
    assert (plane.asks[0].endpoint, plane.asks[0].attempt) == (broken, 1)
    server.close()


async def test_a_route_is_looked_up_again_without_what_was_tried(
    plane: Plane, client: grpc.aio.Channel, runtime: Runtime
) -> None:
    first, second = plane.runtime("127.0.0.1:1"), plane.runtime("127.0.0.1:2")
    good = plane.runtime(runtime.address)
    plane.plane.set_route("n", [first, second])

    def decide(ask: Ask) -> None:
        if len(plane.asks) == 2:
            plane.plane.set_route("n", [first, second, good])
        plane.plane.answer_route(ask.token)

    plane.decide = decide
    assert await call(client, "Unary", metadata=UNKNOWN) == b"hello"
    assert [ask.reason for ask in plane.asks] == ["unreachable", "unreachable"]
    assert sorted(plane.asks[1].tried) == [first, second]


async def test_answers_that_lead_nowhere_come_to_an_end(plane: Plane, client: grpc.aio.Channel) -> None:
    plane.decide = lambda ask: plane.plane.answer_route(ask.token)
    error = await failure(call(client, "Unary", metadata=UNKNOWN))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert error.details() == "no copy was found in 32 decisions; last: no_route"


async def test_a_removed_endpoint_is_unreachable(plane: Plane, client: grpc.aio.Channel) -> None:
    gone = plane.runtime("127.0.0.1:1")
    plane.plane.set_route("n", [gone])
    plane.plane.remove_endpoint(gone)
    assert plane.plane.route("n") == []
    answer = asyncio.create_task(failure(call(client, "Unary", metadata=UNKNOWN)))
    plane.plane.answer_endpoint((await plane.asked()).token, gone)
    ask = await plane.asked(2)
    assert (ask.reason, ask.endpoint) == ("unreachable", gone)
    plane.plane.answer_status(ask.token, 14, "enough")
    assert (await answer).details() == "enough"


async def test_what_is_no_longer_kept_is_not_sent_again(runtime: Runtime) -> None:
    async with planes(max_retained_bytes=1000) as (made,), channel(made.clients) as client:
        made.plane.set_status_rules([(14, "", "", "unavailable")])
        endpoint = made.runtime(runtime.address)
        made.plane.set_route("m", [endpoint])
        made.decide = lambda ask: made.plane.answer_endpoint(ask.token, endpoint)
        metadata = (*MODEL, ("code", "14"), ("message", "busy"))
        error = await failure(call(client, "Fail", bytes(2000), metadata=metadata))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "busy")
        assert len(runtime.seen) == 1
