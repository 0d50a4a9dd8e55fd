"""Connections come and go; requests that were never processed do not fail with them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from tests.dataplane.harness import MODEL, Metadata, call, channel, failure, planes, talk, until
from tests.dataplane.runtime import Runtime


@asynccontextmanager
async def load(address: str, metadata: Metadata = MODEL) -> AsyncIterator[Callable[[], int]]:
    """Calls without end; gives the number of those that were answered. None may fail."""
    done = 0
    stop = False

    async def one(client: grpc.aio.Channel) -> None:
        nonlocal done
        while not stop:
            assert await call(client, "Unary", b"x" * 100, metadata) == b"x" * 100
            done += 1

    async with channel(address, **{"grpc.default_authority": "mesh"}) as client:
        tasks = [asyncio.create_task(one(client)) for _ in range(32)]
        try:
            yield lambda: done
        finally:
            stop = True
            await asyncio.gather(*tasks)


async def after(count: Callable[[], int], more: int) -> None:
    """Waits for so many more answers."""
    goal = count() + more
    await until(lambda: count() >= goal)


async def test_a_runtime_that_sends_goaway_again_and_again() -> None:
    options = [("grpc.max_connection_age_ms", 60), ("grpc.max_connection_age_grace_ms", 5_000)]
    async with Runtime(options=options) as runtime, planes() as (made,):
        made.plane.set_route("m", [made.runtime(runtime.address)])
        async with load(made.clients) as count:
            await asyncio.sleep(1.5)
            await after(count, 100)
        assert made.asks == []


async def test_a_peer_that_sends_goaway_again_and_again(runtime: Runtime) -> None:
    async with planes() as (entry,), planes(max_connection_age_ms=50) as (owner,):
        owner.plane.set_route("m", [owner.runtime(runtime.address)])
        entry.plane.set_route("m", [entry.peer(owner)])
        async with load(entry.clients) as count:
            await asyncio.sleep(1.5)
            await after(count, 100)
        assert entry.asks == []


@pytest.mark.parametrize("socket", ["tcp", "unix"])
async def test_a_vmodel_moves_from_one_runtime_to_the_next(
    tmp_path_factory: pytest.TempPathFactory, socket: str
) -> None:
    folder = tmp_path_factory.mktemp("s")

    def runtime_of(generation: int) -> Runtime:
        return Runtime(f"unix:{folder}/{generation}" if socket == "unix" else "127.0.0.1:0")

    async with planes() as (made,), runtime_of(0) as first:
        old = made.runtime(first.address)
        made.plane.set_route("m0", [old])
        made.plane.set_alias("v", [("m0", 1)])
        runtime = first
        async with load(made.clients, (("mm-vmodel-id", "v"),)) as count:
            for generation in range(1, 5):
                await after(count, 100)
                following = runtime_of(generation)
                await following.server.start()
                new = made.runtime(following.address)
                made.plane.set_route(f"m{generation}", [new])
                made.plane.set_alias("v", [(f"m{generation}", 1)])
                # A grpcio server that is stopping answers what it has not looked at with CANCELLED.
                await until(lambda: made.plane.close_local(f"m{generation - 1}") == 0)  # noqa: B023
                made.plane.remove_endpoint(old)
                await runtime.server.stop(0)
                runtime, old = following, new
        assert made.asks == []
        await runtime.server.stop(0)


async def test_a_runtime_that_is_away_for_a_while(runtime: Runtime) -> None:
    async with planes() as (made,), channel(made.clients) as client:
        server = Runtime()
        await server.server.start()
        endpoint = made.runtime(server.address)
        made.plane.set_route("m", [endpoint])
        assert await call(client, "Unary") == b"hello"
        await server.server.stop(0)

        answer = asyncio.create_task(call(client, "Unary"))
        ask = await made.asked()
        assert ask.reason == "unreachable"
        again = Runtime(server.address)
        await again.server.start()
        made.plane.answer_endpoint(ask.token, endpoint)
        assert await answer == b"hello"
        await again.server.stop(0)


async def test_a_draining_plane_ends_what_it_has_begun(runtime: Runtime) -> None:
    async with planes(2) as (made, other), channel(made.clients) as client:
        endpoint = made.runtime(runtime.address)
        made.plane.set_route("m", [endpoint])
        other.plane.set_route("m", [other.peer(made)])
        stream = talk(client)
        await stream.write(b"a")
        assert await stream.read() == b"a"

        made.plane.start_drain()
        made.plane.start_drain()
        async with channel(made.clients) as late:
            assert (await failure(call(late, "Unary"))).code() == grpc.StatusCode.UNAVAILABLE
        async with channel(other.clients) as elsewhere:
            # The listener for peers goes on.
            assert await call(elsewhere, "Unary") == b"hello"
        await stream.write(b"b")
        assert await stream.read() == b"b"
        await stream.done_writing()
        assert await stream.code() == grpc.StatusCode.OK


async def test_clients_go_over_to_another_plane_without_a_failure(runtime: Runtime) -> None:
    async with planes(2) as (first, second):
        for made in (first, second):
            made.plane.set_route("m", [made.runtime(runtime.address)])
        addresses = ",".join(made.clients for made in (first, second))
        async with load(f"ipv4:{addresses}") as count:
            await after(count, 100)
            first.plane.start_drain()
            await until(lambda: first.plane.totals().connections == 0)
            await after(count, 100)


async def test_close_waits_for_what_is_under_way(runtime: Runtime) -> None:
    for grace, ended in ((5_000, True), (50, False)):
        async with planes() as (made,), channel(made.clients) as client:
            made.plane.set_route("m", [made.runtime(runtime.address)])
            waiting = asyncio.create_task(call(client, "Wait"))
            await until(lambda: runtime.running == 1)
            closing = asyncio.create_task(asyncio.to_thread(made.plane.close, grace))
            if ended:
                await asyncio.sleep(0.05)
                runtime.release.set()
                assert await waiting == b"hello"
            else:
                error = await failure(waiting)
                assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
            assert await closing == ended
            runtime.release.clear()
            await until(lambda: runtime.running == 0)


async def test_more_requests_than_one_connection_takes() -> None:
    async with Runtime(options=[("grpc.max_concurrent_streams", 10)]) as runtime, planes() as (made,):
        made.plane.set_route("m", [made.runtime(runtime.address)])
        async with channel(made.clients) as client:
            calls = [asyncio.create_task(call(client, "Wait")) for _ in range(200)]
            await until(lambda: runtime.running == 200)
            runtime.release.set()
            assert await asyncio.gather(*calls) == [b"hello"] * 200


async def test_several_shards(runtime: Runtime) -> None:
    async with planes(shards=2) as (made,):
        made.plane.set_route("m", [made.runtime(runtime.address)])
        async with channel(made.clients) as one, channel(made.clients) as other:
            for client in (one, other):
                assert await call(client, "Unary", bytes(100_000)) == bytes(100_000)
        totals = {
            (sample.name, sum(sample.buckets))
            for sample in made.plane.take_histograms()
            if sample.name == "invoke_model_milliseconds"
        }
        assert totals == {("invoke_model_milliseconds", 2)}
