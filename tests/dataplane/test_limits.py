"""What is too large, too far or not gRPC is refused in clear words, and harms nobody else."""

import asyncio
import re
from collections import Counter

import grpc
import grpc.aio
import pytest

from mesh.dataplane import DataPlane
from mesh.protos import inference_pb2
from tests.dataplane.harness import MODEL, Plane, begin, call, channel, failure, planes
from tests.dataplane.runtime import Runtime


async def test_messages_beyond_the_limit_in_both_directions(runtime: Runtime) -> None:
    async with planes(max_message_bytes=100_000) as (made,), channel(made.clients) as client:
        made.plane.set_route("m", [made.runtime(runtime.address)])
        assert len(await call(client, "Unary", bytes(100_000))) == 100_000

        error = await failure(call(client, "Unary", bytes(100_001)))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "received message larger than max (100001 vs. 100000)"

        error = await failure(call(client, "Grow", b"100001"))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "100001 vs. 100000" in str(error.details())
        assert await call(client, "Unary", b"fine") == b"fine"


async def test_metadata_beyond_the_limit(client: grpc.aio.Channel) -> None:
    assert await call(client, "Unary", metadata=(*MODEL, ("x", "a" * 6000)))
    error = await failure(call(client, "Unary", metadata=(*MODEL, ("x", "a" * 9000))))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert re.fullmatch(r"received metadata size exceeds limit \(9\d\d\d vs. 8192\)", str(error.details()))


@pytest.mark.parametrize("method", ["/mmesh.ModelRuntime/loadModel", "/mmesh.ModelRuntime/anything"])
async def test_the_runtimes_own_service_is_not_for_clients(client: grpc.aio.Channel, method: str) -> None:
    error = await failure(call(client, method))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == f"Method not found or not permitted: {method[1:]}"


async def test_methods_that_clients_may_call(client: grpc.aio.Channel, plane: Plane) -> None:
    plane.plane.set_rpcs({"test.Echo/Unary": ([], False)}, allow_other=False)
    assert await call(client, "Unary")
    error = await failure(call(client, "Grow", b"1"))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    plane.plane.set_rpcs({"test.Echo/Unary": ([], False)}, allow_other=True)
    assert await call(client, "Grow", b"1")
    plane.plane.set_rpcs(None)
    assert await call(client, "Grow", b"1")


async def test_rules_for_methods_change_under_load(client: grpc.aio.Channel, plane: Plane) -> None:
    """Each request goes by the rules of the moment at which it came; none sees half of a change."""
    request = inference_pb2.ModelInferRequest(model_name="m").SerializeToString()
    in_message = {"test.Echo/Unary": ([1], False)}
    stop = asyncio.Event()
    codes: Counter[grpc.StatusCode] = Counter()

    async def ask() -> None:
        while not stop.is_set():
            try:
                await call(client, "Unary", request, metadata=())
            except grpc.aio.AioRpcError as error:
                codes[error.code()] += 1
            else:
                codes[grpc.StatusCode.OK] += 1

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    for _ in range(50):
        plane.plane.set_rpcs(in_message, allow_other=False)
        await asyncio.sleep(0.002)
        plane.plane.set_rpcs({"test.Echo/Grow": ([], False)}, allow_other=False)
        await asyncio.sleep(0.002)
    plane.plane.set_rpcs(in_message)
    with pytest.raises(ValueError, match="field number 0"):
        plane.plane.set_rpcs({"test.Echo/Unary": ([0], False)}, allow_other=False)
    stop.set()
    await asyncio.gather(*asking)
    # With neither an id in the message nor in the metadata it would have been INVALID_ARGUMENT.
    assert codes.keys() == {grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED}
    # What was refused has changed nothing.
    assert await call(client, "Unary", request, metadata=()) == request
    assert await call(client, "Grow", b"1")


async def test_methods_that_the_runtime_serves(client: grpc.aio.Channel, plane: Plane) -> None:
    plane.plane.set_runtime_methods({"test.Echo/Unary": []})
    assert await call(client, "Unary")
    error = await failure(call(client, "Grow", b"1"))
    assert (error.code(), error.details()) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "Method not found or not permitted: test.Echo/Grow",
    )
    plane.plane.set_runtime_methods({"test.Echo/Unary": []}, allow_any=True)
    assert await call(client, "Grow", b"1")


async def test_a_request_does_not_go_round_in_circles() -> None:
    async with planes(max_hops=3) as (made,), channel(made.peers) as client:
        itself = made.peer(made)
        made.decide = lambda ask: made.plane.answer_endpoint(ask.token, itself)
        error = await failure(call(client, "Unary"))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert error.details() == "the request was forwarded 3 times and may not be again"


async def test_only_peers_are_believed_what_peers_say(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    metadata = (*MODEL, ("mm-hop", "99"), ("mm-from-peer", "1"))
    assert await call(client, "Unary", metadata=metadata) == b"hello"
    assert "mm-hop" not in runtime.seen[0]


async def _http2(address: str, *frames: bytes) -> bytes:
    """Sends bytes after the preface; what comes back until the connection ends or falls silent."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    writer.write(b"".join(frames))
    received = b""
    try:
        async with asyncio.timeout(1):
            while chunk := await reader.read(65536):
                received += chunk
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return received


def _headers(*fields: tuple[str, str]) -> bytes:
    """A HEADERS frame of stream 1 that ends it, each field a literal without indexing."""
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields
    )
    return len(block).to_bytes(3) + bytes([1, 0x05]) + (1).to_bytes(4) + block


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [
        ("POST", "application/json", b"415"),
        ("POST", "application/grpcx", b"415"),
        ("GET", "application/grpc", b"405"),
    ],
)
async def test_what_is_not_grpc(plane: Plane, method: str, content_type: str, status: bytes) -> None:
    fields = (
        (":method", method),
        (":scheme", "http"),
        (":path", "/test.Echo/Unary"),
        (":authority", "a"),
        ("content-type", content_type),
    )
    received = await _http2(plane.clients, _headers(*fields))
    # :status is index 8 of the table, then Huffman-coded or plain; 405 and 415 are not in it.
    huffman = {b"415": bytes.fromhex("682f"), b"405": bytes.fromhex("6801")}
    assert status in received or huffman[status][:1] in received


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 100,
        _headers((":method", "POST"), (":method", "POST")),
        # DATA on a stream that was never opened.
        (3).to_bytes(3) + bytes([0, 0]) + (5).to_bytes(4) + b"abc",
        # A SETTINGS frame of a length that cannot be.
        (5).to_bytes(3) + bytes([4, 0]) + (0).to_bytes(4) + b"abcde",
    ],
)
async def test_malformed_http2_ends_its_connection_only(
    plane: Plane, client: grpc.aio.Channel, garbage: bytes
) -> None:
    assert await call(client, "Unary") == b"hello"
    await _http2(plane.clients, garbage)
    assert await call(client, "Unary") == b"hello"
    assert client.get_state() == grpc.ChannelConnectivity.READY
    assert plane.plane.totals().streams == 0


async def test_thousands_of_cancelled_calls_do_not_end_the_connection(
    plane: Plane, client: grpc.aio.Channel
) -> None:
    async def one(number: int) -> None:
        waiting = begin(client, "Wait")
        await asyncio.sleep(0)
        if number % 3:
            await asyncio.sleep(0.01)
        waiting.cancel()

    steady = asyncio.create_task(call(client, "Grow", b"5"))
    for _ in range(10):
        await asyncio.gather(*(one(number) for number in range(200)))
        assert await call(client, "Unary") == b"hello"
    await steady
    assert plane.plane.totals().connections == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shards": 0}, "shards: must be positive, not 0"),
        ({"max_message_bytes": -5}, "max_message_bytes: must be positive, not -5"),
        ({"max_retained_bytes": -1}, "max_retained_bytes: must not be negative, but is -1"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DataPlane(**arguments)  # type: ignore[arg-type]


def test_bad_arguments_are_named() -> None:
    plane = DataPlane()
    with pytest.raises(ValueError, match=r'address "nowhere" must be host:port, \[ipv6\]:port or unix:/path'):
        plane.listen("nowhere", peers=False)
    taken = plane.listen("127.0.0.1:0", peers=False)
    with pytest.raises(OSError, match=f"cannot listen on {taken}"):
        plane.listen(taken, peers=False)
    with pytest.raises(ValueError, match='kind: "friend" is neither "runtime" nor "peer"'):
        plane.add_endpoint(taken, "friend", "f")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="endpoints: there is no endpoint 7"):
        plane.set_route("m", [7])
    with pytest.raises(ValueError, match="model_id: an id must not be empty"):
        plane.set_route("", [])
    with pytest.raises(ValueError, match="code: status code 99 is not in 1 to 16"):
        plane.answer_status(0, 99, "")
    with pytest.raises(ValueError, match='rules: reason "gone" is none of lost, unavailable, exhausted'):
        plane.set_status_rules([(5, "", "", "gone")])  # type: ignore[list-item]
    with pytest.raises(ValueError, match='rpcs: field number 0 of "a/b" is not in 1 to'):
        plane.set_rpcs({"a/b": ([1, 0], False)})
    assert plane.close(0)
    with pytest.raises(RuntimeError, match="the data plane is closed"):
        plane.listen("127.0.0.1:0", peers=False)
