"""Two data planes: one forwards to the other."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from mesh.dataplane import Ask
from tests.dataplane.harness import MODEL, Plane, begin, call, channel, failure, planes, talk, until
from tests.dataplane.runtime import DETAILS, Runtime


class Pair:
    """A data plane where requests come in, and one that has the copy of ``m``."""

    def __init__(self, entry: Plane, owner: Plane, runtime: Runtime) -> None:
        self.entry, self.owner, self.runtime = entry, owner, runtime
        self.owner_endpoint = entry.peer(owner)
        self.runtime_endpoint = owner.runtime(runtime.address)
        entry.plane.set_route("m", [self.owner_endpoint])
        owner.plane.set_route("m", [self.runtime_endpoint])


@pytest.fixture
async def pair(runtime: Runtime) -> AsyncIterator[Pair]:
    async with planes(2, per_model_metrics=True) as (entry, owner):
        yield Pair(entry, owner, runtime)


@pytest.fixture
async def client(pair: Pair) -> AsyncIterator[grpc.aio.Channel]:
    async with channel(pair.entry.clients) as made:
        yield made


async def test_requests_of_all_kinds_are_forwarded(client: grpc.aio.Channel, pair: Pair) -> None:
    request = bytes(600 << 10)
    assert await call(client, "Unary", request, metadata=(*MODEL, ("x", "y"))) == request
    assert {key: pair.runtime.seen[0][key] for key in ("x", "mm-model-id")} == {"x": "y", "mm-model-id": "m"}
    assert not {"mm-hop", "mm-from-peer"} & set(pair.runtime.seen[0])

    stream = talk(client)
    assert dict(await stream.initial_metadata())["first"] == "1"
    await stream.write(b"a")
    assert await stream.read() == b"a"
    assert pair.owner.plane.local_in_flight("m") == 1
    await stream.done_writing()
    assert await stream.code() == grpc.StatusCode.OK
    assert dict(await stream.trailing_metadata())["last"] == "2"

    error = await failure(call(client, "Fail", metadata=(*MODEL, ("code", "3"), ("message", "no"))))
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "no")
    assert dict(error.trailing_metadata())["grpc-status-details-bin"] == DETAILS
    assert pair.entry.plane.totals().forwarded == 3


async def test_cancellation_and_deadline_go_all_the_way(client: grpc.aio.Channel, pair: Pair) -> None:
    waiting = begin(client, "Wait")
    await until(lambda: pair.runtime.running == 1)
    waiting.cancel()
    await until(lambda: pair.runtime.cancelled == 1)
    late = asyncio.create_task(failure(call(client, "Wait", timeout=1)))
    await until(lambda: pair.runtime.running == 1)
    assert (await late).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: pair.runtime.cancelled == 2)
    left = pair.runtime.time_left[-1]
    assert left is not None
    # grpcio rounds up.
    assert 0 < left < 1.1


async def test_a_peer_without_a_copy_is_left_for_another(client: grpc.aio.Channel, pair: Pair) -> None:
    pair.owner.plane.remove_route("m")
    pair.owner.decide = lambda ask: pair.owner.plane.answer_not_here(ask.token)
    local = pair.entry.runtime(pair.runtime.address)

    def decide(ask: Ask) -> None:
        pair.entry.plane.set_route("m", [local])
        pair.entry.plane.answer_route(ask.token)

    pair.entry.decide = decide
    request = bytes(600 << 10)
    assert await call(client, "Unary", request) == request
    (asked,) = pair.owner.asks
    assert (asked.reason, asked.from_peer, asked.model_id) == ("no_route", True, "m")
    (ask,) = pair.entry.asks
    assert (ask.reason, ask.endpoint, ask.tried) == ("not_here", pair.owner_endpoint, [pair.owner_endpoint])


async def test_a_peers_refusal_shows_the_client_nothing_of_the_mesh(
    client: grpc.aio.Channel, pair: Pair
) -> None:
    pair.owner.plane.remove_route("m")
    pair.owner.decide = lambda ask: pair.owner.plane.answer_status(ask.token, 13, "failed to load", DETAILS)
    error = await failure(call(client, "Unary"))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "failed to load")
    names = {key for key, _ in (*error.trailing_metadata(), *error.initial_metadata())}
    assert not [name for name in names if name.startswith("mm-")]
    assert pair.entry.asks == []


async def test_a_peer_uses_only_its_own_runtime(client: grpc.aio.Channel, pair: Pair) -> None:
    back = pair.owner.peer(pair.entry)
    pair.owner.plane.set_route("m", [back])
    pair.owner.decide = lambda ask: pair.owner.plane.answer_not_here(ask.token)
    pair.entry.decide = lambda ask: pair.entry.plane.answer_status(ask.token, 5, ask.reason)
    assert (await failure(call(client, "Unary"))).details() == "not_here"


async def test_a_vmodel_is_resolved_once(client: grpc.aio.Channel, pair: Pair) -> None:
    pair.entry.plane.set_alias("v", [("m", 1)])
    await call(client, "Unary", metadata=(("mm-vmodel-id", "v"),))
    samples = {
        (sample.name, sample.model_id, sample.vmodel_id) for sample in pair.owner.plane.take_histograms()
    }
    assert samples == {("invoke_model_milliseconds", "m", "v")}


async def test_the_copy_with_the_fewest_requests_in_flight_is_taken_the_local_one_among_equals(
    client: grpc.aio.Channel, pair: Pair
) -> None:
    async with Runtime() as near:
        local = pair.entry.runtime(near.address)
        pair.entry.plane.set_route("m", [pair.owner_endpoint, local])
        calls = []
        for expected in [(1, 0), (1, 1), (2, 1), (2, 2)]:
            calls.append(begin(client, "Wait"))
            await until(
                lambda expected=expected: (near.running, pair.runtime.running) == expected  # type: ignore[misc]
            )
        balanced = begin(client, "Wait", metadata=(*MODEL, ("mm-balanced", "true")))
        again = begin(client, "Wait", metadata=(*MODEL, ("mm-balanced", "true")))
        await until(lambda: near.running == 4)
        near.release.set()
        pair.runtime.release.set()
        await asyncio.gather(*calls, balanced, again)


async def test_a_full_queue_counts_only_if_no_other_copy_has_room(
    client: grpc.aio.Channel, pair: Pair
) -> None:
    pair.owner.plane.set_route("m", [pair.runtime_endpoint], max_concurrency=1, max_queued=0)
    first = begin(client, "Wait")
    await until(lambda: pair.runtime.running == 1)
    error = await failure(call(client, "Wait"))
    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Model queue overload")

    async with Runtime() as near:
        local = pair.entry.runtime(near.address)
        pair.entry.plane.set_route("m", [pair.owner_endpoint, local], max_concurrency=1, max_queued=0)
        second = begin(client, "Wait")
        await until(lambda: near.running == 1)
        error = await failure(call(client, "Wait"))
        assert error.details() == "Model queue overload"
        pair.runtime.release.set()
        await first
        assert await call(client, "Wait", b"x" * 300_000) == b"x" * 300_000
        near.release.set()
        await second
    assert pair.entry.asks == []


async def test_management_calls_by_prefix(client: grpc.aio.Channel, pair: Pair) -> None:
    async with Runtime() as control, channel(pair.entry.peers) as peer:
        pair.entry.plane.set_control(control.address, ["/mmesh.ModelMesh/"], ["/mesh.Peer/"])
        assert await call(client, "/mmesh.ModelMesh/Unary", metadata=(("mm-x", "y"),)) == b"hello"
        assert control.seen[0]["mm-x"] == "y"
        assert (await failure(call(client, "/mmesh.ModelMesh/none"))).code() == grpc.StatusCode.UNIMPLEMENTED
        refused = await failure(call(client, "/mesh.Peer/Unary"))
        assert refused.details() == "Method not found or not permitted: mesh.Peer/Unary"
        assert await call(peer, "/mesh.Peer/Unary", metadata=()) == b"hello"
        assert await call(peer, "/mmesh.ModelMesh/Unary", metadata=()) == b"hello"
        late = asyncio.create_task(failure(call(client, "/mmesh.ModelMesh/Wait", timeout=1)))
        await until(lambda: control.running == 1)
        assert (await late).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: control.cancelled == 1)
    assert not pair.entry.plane.take_histograms()
    gone = await failure(call(client, "/mmesh.ModelMesh/Unary"))
    assert gone.code() == grpc.StatusCode.UNAVAILABLE
