"""Requests and answers of every kind pass unchanged."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from tests.dataplane.harness import MODEL, TIMEOUT, Plane, begin, call, channel, failure, planes, talk, until
from tests.dataplane.runtime import DETAILS, Runtime


@pytest.mark.parametrize("size", [0, 1, 120, 70_000, 600 << 10, 5 << 20])
async def test_unary_calls_of_any_size(client: grpc.aio.Channel, size: int) -> None:
    request = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert await call(client, "Unary", request) == request


async def test_the_other_kinds_of_streams(client: grpc.aio.Channel) -> None:
    parts = [b"a" * 100_000, b"", b"b"]
    collect: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = client.stream_unary("/test.Echo/Collect")
    assert await collect(iter(parts), metadata=tuple(MODEL), timeout=TIMEOUT) == b"".join(parts)

    spread: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = client.unary_stream("/test.Echo/Spread")
    answers = spread(b"abc", metadata=tuple(MODEL), timeout=TIMEOUT)
    assert [part async for part in answers] == [b"a", b"b", b"c"]

    stream = talk(client)
    # Metadata before any message, and each answer before the next request.
    assert dict(await stream.initial_metadata())["first"] == "1"
    for number in range(100):
        await stream.write(b"%d" % number)
        assert await stream.read() == b"%d" % number
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert dict(await stream.trailing_metadata())["last"] == "2"
    assert await stream.code() == grpc.StatusCode.OK


async def test_a_long_stream_with_a_slow_reader(client: grpc.aio.Channel) -> None:
    async def requests() -> AsyncIterator[bytes]:
        for number in range(200):
            yield bytes([number]) * 70_000

    stream = talk(client, requests())
    await asyncio.sleep(0.2)
    assert [part[0] async for part in stream] == list(range(200))


async def test_metadata_and_trailers_of_a_success(client: grpc.aio.Channel) -> None:
    answer = begin(client, "Unary")
    first, last = dict(await answer.initial_metadata()), dict(await answer.trailing_metadata())
    assert (first["first"], first["first-bin"]) == ("1", b"\x00\xff")
    assert (last["last"], last["last-bin"]) == ("2", b"\xff\x00")


@pytest.mark.parametrize("early", [(), (("early", "1"),)])
async def test_status_details_and_trailers_of_a_failure(
    client: grpc.aio.Channel, early: tuple[tuple[str, str], ...]
) -> None:
    metadata = (*MODEL, ("code", "9"), ("message", "100% bad"), *early)
    error = await failure(call(client, "Fail", metadata=metadata))
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "100% bad")
    trailers = dict(error.trailing_metadata())
    assert (trailers["last"], trailers["grpc-status-details-bin"]) == ("2", DETAILS)
    assert ("first" in dict(error.initial_metadata())) == bool(early)


async def test_what_the_runtime_gets_of_the_metadata(client: grpc.aio.Channel, runtime: Runtime) -> None:
    sent = (
        ("mm-vmodel-id-bin", b"x"),
        ("content", "stays"),
        ("user", "stays"),
        ("tas", "stays"),
        ("x-bin", b"\x01"),
        ("grpc-trace-bin", b"gone"),
        ("mm-anything", "gone"),
        ("mm-balanced", "true"),
    )
    await call(client, "Unary", metadata=(*MODEL, *sent[1:]))
    (seen,) = runtime.seen
    user_agent = str(seen.pop("user-agent", ""))
    assert "grpc-python" not in user_agent
    assert seen == {
        "content": "stays",
        "user": "stays",
        "tas": "stays",
        "x-bin": b"\x01",
        "mm-model-id": "m",
        "mm-model-id-bin": b"m",
    }


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages(
    client: grpc.aio.Channel, runtime: Runtime, compression: grpc.Compression
) -> None:
    request = b"a" * 100_000
    assert await call(client, "Unary", request, compression=compression) == request
    assert runtime.messages == [request]


async def test_a_unix_socket_on_both_sides(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    async with Runtime(f"unix:{folder}/runtime") as runtime, planes() as (made,):
        address = made.plane.listen(f"unix:{folder}/plane", peers=False)
        made.plane.set_route("m", [made.runtime(runtime.address)])
        # Its own choice, the escaped path, is no valid authority in the eyes of many HTTP/2 servers.
        async with channel(address, **{"grpc.default_authority": "localhost"}) as client:
            assert await call(client, "Unary", b"x" * 300_000) == b"x" * 300_000


async def test_a_cancelled_call_is_cancelled_at_the_runtime(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    waiting = begin(client, "Wait")
    await until(lambda: runtime.running == 1)
    assert plane.plane.local_in_flight("m") == 1
    waiting.cancel()
    stream = talk(client)
    await stream.initial_metadata()
    stream.cancel()
    await until(lambda: runtime.running == 0)
    assert runtime.cancelled >= 1
    await until(lambda: plane.plane.local_in_flight("m") == 0)


async def test_a_deadline_reaches_the_runtime_and_ends_the_call(
    client: grpc.aio.Channel, runtime: Runtime
) -> None:
    late = asyncio.create_task(failure(call(client, "Wait", timeout=1)))
    await until(lambda: runtime.running == 1)
    assert (await late).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    (left,) = runtime.time_left
    assert left is not None
    # grpcio rounds up.
    assert 0 < left < 1.1
    await until(lambda: runtime.cancelled == 1)


async def test_the_wait_for_a_decision_counts_against_the_deadline(
    plane: Plane, client: grpc.aio.Channel, runtime: Runtime
) -> None:
    endpoint = plane.runtime(runtime.address)
    answer = asyncio.create_task(call(client, "Unary", metadata=(("mm-model-id", "n"),), timeout=30))
    ask = await plane.asked()
    # grpcio rounds what is left up to a tenth of a second.
    await asyncio.sleep(0.5)
    plane.plane.answer_endpoint(ask.token, endpoint)
    await answer
    (left,) = runtime.time_left
    assert left is not None
    assert left <= 29.7


async def test_a_deadline_passes_while_python_decides(plane: Plane, client: grpc.aio.Channel) -> None:
    late = asyncio.create_task(failure(call(client, "Unary", metadata=(("mm-model-id", "n"),), timeout=1)))
    ask = await plane.asked()
    assert (await late).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: plane.plane.totals().waiting == 0)
    # Too late, and nobody minds.
    plane.plane.answer_route(ask.token)
