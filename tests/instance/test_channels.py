"""Unary calls through the data plane's client behave as those of gRPC's own: against real servers of grpcio."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.instance import Channels
from tests.dataplane.harness import failure, until
from tests.dataplane.runtime import Runtime
from tests.servers.process import free_port


@pytest.fixture
async def channels() -> AsyncIterator[Channels]:
    async with Channels() as opened:
        yield opened


@pytest.fixture
async def server() -> AsyncIterator[Runtime]:
    async with Runtime(options=[("grpc.max_concurrent_streams", 100)]) as started:
        yield started


@pytest.fixture
async def channel(channels: Channels, server: Runtime) -> AsyncIterator[grpc.aio.Channel]:
    async with channels.open(server.address) as opened:
        yield opened


async def call(channel: grpc.aio.Channel, method: str, request: bytes = b"hello", **options: Any) -> bytes:
    options.setdefault("timeout", 20)
    multi: Any = channel.unary_unary(f"/test.Echo/{method}")
    return bytes(await multi(request, **options))


@pytest.mark.parametrize("size", [0, 1, 100_000, 9 << 20])
async def test_messages_of_any_size_pass_whole(channel: grpc.aio.Channel, size: int) -> None:
    assert await call(channel, "Unary", b"q" * size) == b"q" * size


async def test_the_server_gets_metadata_and_the_time_that_is_left(
    channel: grpc.aio.Channel, server: Runtime
) -> None:
    await call(channel, "Unary", metadata=(("hasleader", "true"), ("token", "abc")), timeout=5)
    await call(channel, "Unary", timeout=None)
    assert server.seen[0].items() >= {"hasleader": "true", "token": "abc"}.items()
    first, second = server.time_left
    assert first is not None
    assert 0 < first <= 5
    assert second is None


@pytest.mark.parametrize("early", ["", "yes"])
async def test_a_failure_has_its_code_and_message(channel: grpc.aio.Channel, early: str) -> None:
    metadata = (("code", "9"), ("message", "niemand hört 100%"), ("early", early))
    error = await failure(call(channel, "Fail", metadata=metadata))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "niemand hört 100%"


async def test_a_method_that_is_not_there_is_unimplemented(channel: grpc.aio.Channel) -> None:
    error = await failure(call(channel, "Nothing"))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_deadline_ends_the_call_here_and_there(channel: grpc.aio.Channel, server: Runtime) -> None:
    error = await failure(call(channel, "Wait", timeout=0.2))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: server.cancelled == 1)
    assert await call(channel, "Unary") == b"hello"


async def test_one_who_gives_up_cancels_the_call(channel: grpc.aio.Channel, server: Runtime) -> None:
    waiting = asyncio.create_task(call(channel, "Wait"))
    await until(lambda: server.running == 1)
    waiting.cancel()
    await until(lambda: server.cancelled == 1)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_closing_a_channel_ends_its_calls_and_no_others(
    channels: Channels, channel: grpc.aio.Channel, server: Runtime
) -> None:
    other = channels.open(server.address)
    ending = asyncio.create_task(call(other, "Wait"))
    staying = asyncio.create_task(call(channel, "Wait"))
    await until(lambda: server.running == 2)
    await other.close()
    with pytest.raises(asyncio.CancelledError):
        await ending
    with pytest.raises(grpc.aio.UsageError):
        await call(other, "Unary")
    server.release.set()
    assert await staying == b"hello"


async def test_closing_all_leaves_nobody_waiting(server: Runtime) -> None:
    async with Channels() as channels:
        waiting = asyncio.create_task(call(channels.open(server.address), "Wait"))
        await until(lambda: server.running == 1)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: server.running == 0)


async def test_more_calls_than_one_connection_takes_go_on_others(
    channel: grpc.aio.Channel, server: Runtime
) -> None:
    calls = [asyncio.create_task(call(channel, "Wait", str(n).encode())) for n in range(250)]
    await until(lambda: server.running == 250)
    server.release.set()
    assert await asyncio.gather(*calls) == [str(n).encode() for n in range(250)]


async def test_nobody_there_is_told_at_once_and_found_once_there(channels: Channels) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with channels.open(address) as channel:
        error = await failure(call(channel, "Unary"))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "failed to connect" in (error.details() or "")
        assert "refused" in (error.details() or "")
        for _ in range(2):
            # Started anew, it is found by the next call, too.
            async with Runtime(address) as server:
                assert await call(channel, "Unary") == b"hello"
                broken = asyncio.create_task(failure(call(channel, "Wait")))
                await until(lambda server=server: server.running == 1)  # type: ignore[misc]
                await server.server.stop(0)
                assert (await broken).code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_a_server_that_ends_its_connections_fails_no_call(channels: Channels) -> None:
    options = [("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 1_000)]
    async with Runtime(options=options) as server, channels.open(server.address) as channel:
        for number in range(100):
            assert await call(channel, "Unary", str(number).encode()) == str(number).encode()
            await asyncio.sleep(0.005)


async def test_one_that_says_nothing_costs_its_deadline_and_is_left_for_a_new_connection(
    channels: Channels,
) -> None:
    """The other machine is gone without a word: its kernel never answers on the old connection again."""
    async with Runtime() as server:
        host, _, port = server.address.rpartition(":")
        mute = asyncio.Event()
        connections = 0

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            first = connections == 1
            there, back = await asyncio.open_connection(host, int(port))

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(1 << 16):
                    if not (first and mute.is_set()):
                        sink.write(data)

            await asyncio.gather(pump(reader, back), pump(there, writer))

        listener = socket.create_server(("127.0.0.1", 0))
        middle = await asyncio.start_server(relay, sock=listener)
        async with channels.open(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
            assert await call(channel, "Unary") == b"hello"
            mute.set()
            error = await failure(call(channel, "Unary", timeout=0.2))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert await call(channel, "Unary") == b"hello"
            assert connections == 2
        middle.close()


async def test_a_unix_socket_is_as_good(channels: Channels, tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'socket'}"
    async with Runtime(address) as server:
        options = (("grpc.default_authority", "localhost"),)
        async with channels.open(server.address, options) as channel:
            assert await call(channel, "Unary") == b"hello"
            await channel.channel_ready()
            assert channel.get_state() is grpc.ChannelConnectivity.READY


async def test_a_stream_gives_each_message_in_order(channel: grpc.aio.Channel, server: Runtime) -> None:
    talk: Any = channel.stream_stream("/test.Echo/Talk")(metadata=(("token", "abc"),))
    await talk.write(b"first")
    assert await talk.read() == b"first"
    assert server.seen[0]["token"] == "abc"
    # Many more than are read from the network ahead of their reader, and one of several frames.
    messages = [str(number).encode() for number in range(10_000)] + [b"x" * (3 << 20)]
    for message in messages:
        await talk.write(message)
    assert [await talk.read() for _ in messages] == messages
    talk.cancel()
    await until(lambda: server.running == 0)
    with pytest.raises(asyncio.CancelledError):
        await talk.read()
    with pytest.raises(asyncio.InvalidStateError):
        await talk.write(b"late")


async def test_a_stream_that_the_server_ends_says_how(channel: grpc.aio.Channel) -> None:
    refused: Any = channel.stream_stream("/test.Echo/Nothing")()
    error = await failure(refused.read())
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await refused.code() is grpc.StatusCode.UNIMPLEMENTED
    # A server takes the one message of a unary call as the whole request.
    answered: Any = channel.stream_stream("/test.Echo/Unary")()
    await answered.write(b"hello")
    assert await answered.read() == b"hello"
    assert await answered.read() is grpc.aio.EOF


async def test_a_stream_ends_with_its_server_and_with_its_channel(
    channels: Channels, server: Runtime
) -> None:
    async with channels.open(server.address) as channel:
        talk: Any = channel.stream_stream("/test.Echo/Talk")()
        await talk.write(b"a")
        assert await talk.read() == b"a"
    with pytest.raises(asyncio.CancelledError):
        await talk.read()
    async with channels.open(server.address) as channel:
        talk = channel.stream_stream("/test.Echo/Talk")()
        await talk.write(b"a")
        assert await talk.read() == b"a"
        reading = asyncio.create_task(failure(talk.read()))
        await server.server.stop(0)
        assert (await reading).code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_what_streams_otherwise_goes_through_the_same_channel(channel: grpc.aio.Channel) -> None:
    stream: Any = channel.stream_stream("/test.Echo/Talk")
    assert [part async for part in stream(iter([b"a", b"b"]), timeout=20)] == [b"a", b"b"]
    spread: Any = channel.unary_stream("/test.Echo/Spread")
    assert [part async for part in spread(b"ab", timeout=20)] == [b"a", b"b"]


def test_an_address_that_is_none_is_refused_with_its_text() -> None:
    with pytest.raises(ValueError, match="no-port"):
        Channels().open("no-port")
