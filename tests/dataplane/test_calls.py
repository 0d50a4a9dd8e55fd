"""Calls of the control API that Python answers itself: whole messages in and out, with a real gRPC client."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from mesh.dataplane import Call
from tests.dataplane.harness import Plane, call, channel, failure, is_idle, planes, until

METHOD = "/test.Control/Ask"
PEER_METHOD = "/test.Peers/Ask"


class Control:
    """A plane that keeps its calls until a test answers them."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.calls: list[Call] = []
        plane.plane.set_control(
            "127.0.0.1:1", ["/test.Control/"], ["/test.Peers/"], [METHOD.strip("/"), PEER_METHOD.strip("/")]
        )
        loop = asyncio.get_running_loop()
        loop.remove_reader(plane.plane.event_fd)
        loop.add_reader(plane.plane.event_fd, self._take)

    def _take(self) -> None:
        self.plane.plane.take_events()
        self.calls.extend(self.plane.plane.take_calls())

    async def next(self) -> Call:
        await until(lambda: bool(self.calls))
        return self.calls.pop(0)


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    async with planes() as (plane,):
        yield Control(plane)


async def test_a_message_goes_to_python_and_its_reply_back(control: Control) -> None:
    async with channel(control.plane.clients) as client:
        asked = asyncio.create_task(call(client, METHOD, b"question", metadata=()))
        taken = await control.next()
        assert (taken.method, taken.message) == ("test.Control/Ask", b"question")
        control.plane.plane.answer_call(taken.token, b"reply")
        assert await asked == b"reply"


@pytest.mark.parametrize("size", [0, 1, 200_000, 9 << 20])
async def test_messages_of_any_size_pass_whole(control: Control, size: int) -> None:
    async with channel(control.plane.clients) as client:
        asked = asyncio.create_task(call(client, METHOD, b"q" * size, metadata=()))
        taken = await control.next()
        assert taken.message == b"q" * size
        control.plane.plane.answer_call(taken.token, b"r" * size)
        assert await asked == b"r" * size


async def test_a_compressed_message_arrives_plain(control: Control) -> None:
    async with channel(control.plane.clients) as client:
        asked = asyncio.create_task(
            call(client, METHOD, b"a" * 10_000, metadata=(), compression=grpc.Compression.Gzip)
        )
        taken = await control.next()
        assert taken.message == b"a" * 10_000
        control.plane.plane.answer_call(taken.token, b"")
        assert await asked == b""


async def test_a_failure_has_its_status_and_details(control: Control) -> None:
    async with channel(control.plane.clients) as client:
        asked = asyncio.create_task(failure(call(client, METHOD, metadata=())))
        taken = await control.next()
        control.plane.plane.fail_call(taken.token, 5, "niemand hört", b"details")
        error = await asked
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details() == "niemand hört"
        assert dict(error.trailing_metadata() or ())["grpc-status-details-bin"] == b"details"


async def test_calls_of_peers_are_not_for_clients(control: Control) -> None:
    async with channel(control.plane.clients) as client, channel(control.plane.peers) as peer:
        error = await failure(call(client, PEER_METHOD, metadata=()))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        asked = asyncio.create_task(call(peer, PEER_METHOD, metadata=()))
        control.plane.plane.answer_call((await control.next()).token, b"reply")
        assert await asked == b"reply"


async def test_a_caller_who_gives_up_leaves_nothing_behind(control: Control) -> None:
    async with channel(control.plane.clients) as client:
        error = await failure(call(client, METHOD, metadata=(), timeout=0.1))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: is_idle(control.plane.plane))
        control.plane.plane.answer_call((await control.next()).token, b"too late")


async def test_a_stream_is_no_unary_call(control: Control) -> None:
    async with channel(control.plane.clients) as client:
        multi: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = client.stream_unary(METHOD)
        error = await failure(multi(iter([b"one", b"two"]), timeout=10))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "exactly one whole message" in str(error.details())


async def test_many_calls_at_once_are_told_apart(control: Control) -> None:
    async with channel(control.plane.clients) as client:
        asked = [
            asyncio.create_task(call(client, METHOD, str(number).encode(), metadata=()))
            for number in range(500)
        ]
        for _ in range(500):
            taken = await control.next()
            control.plane.plane.answer_call(taken.token, taken.message + b"!")
        assert await asyncio.gather(*asked) == [f"{number}!".encode() for number in range(500)]
