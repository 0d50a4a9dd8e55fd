"""What the tests of the data plane share: planes with somebody to decide, channels, and patience."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio

from mesh.dataplane import Ask, DataPlane

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

MODEL: Metadata = (("mm-model-id", "m"),)
TIMEOUT = 20.0


class Plane:
    """A data plane whose asks go to a function; without one they wait in ``asks``."""

    def __init__(self, **settings: Any) -> None:
        self.plane = DataPlane(**settings)
        self.asks: list[Ask] = []
        self.decide: Callable[[Ask], None] | None = None
        self.clients = self.plane.listen("127.0.0.1:0", peers=False)
        self.peers = self.plane.listen("127.0.0.1:0", peers=True)
        asyncio.get_running_loop().add_reader(self.plane.event_fd, self._fetch)

    def _fetch(self) -> None:
        for ask in self.plane.take_events():
            self.asks.append(ask)
            if self.decide:
                self.decide(ask)

    def runtime(self, address: str) -> int:
        """Adds the local runtime."""
        return self.plane.add_endpoint(address, "runtime", "runtime")

    def peer(self, other: "Plane") -> int:
        """Adds another data plane."""
        return self.plane.add_endpoint(other.peers, "peer", "peer")

    async def asked(self, count: int = 1) -> Ask:
        """Waits until there were so many asks; the newest."""
        await until(lambda: len(self.asks) >= count)
        return self.asks[-1]

    def close(self) -> None:
        """Ends it at once."""
        asyncio.get_running_loop().remove_reader(self.plane.event_fd)
        self.plane.close(0)


@asynccontextmanager
async def planes(count: int = 1, **settings: Any) -> AsyncIterator[list[Plane]]:
    """So many data planes; at the end nothing of any request may be left in them."""
    made = [Plane(**settings) for _ in range(count)]
    try:
        yield made
        for one in made:
            await until(partial(is_idle, one.plane))
    finally:
        for one in made:
            one.close()


def is_idle(plane: DataPlane) -> bool:
    """Whether no request is under way, queued, waiting or kept."""
    totals = plane.totals()
    in_use = [usage.model_id for usage in plane.take_usage() if usage.in_flight]
    counts = (totals.streams, totals.waiting, totals.queued, totals.retained_bytes)
    return not any(counts) and not totals.shadows and not totals.shadow_bytes and not in_use


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition, with a limit."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def channel(address: str, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A client of its own connection, with no retries of its own."""
    settings = {"grpc.use_local_subchannel_pool": 1, "grpc.enable_retries": 0, **options}
    settings.setdefault("grpc.max_receive_message_length", -1)
    settings.setdefault("grpc.max_send_message_length", -1)
    async with grpc.aio.insecure_channel(address, options=list(settings.items())) as made:
        yield made


async def call(
    client: grpc.aio.Channel,
    method: str,
    request: bytes = b"hello",
    metadata: Metadata = MODEL,
    timeout: float = TIMEOUT,
    **options: Any,
) -> bytes:
    """A unary call of ``test.Echo``."""
    name = method if method.startswith("/") else f"/test.Echo/{method}"
    multi: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = client.unary_unary(name)
    return await multi(request, metadata=tuple(metadata), timeout=timeout, **options)


def begin(
    client: grpc.aio.Channel, method: str, request: bytes = b"", metadata: Metadata = MODEL
) -> "grpc.aio.UnaryUnaryCall[bytes, bytes]":
    """A unary call of ``test.Echo`` without a deadline, to be cancelled or awaited."""
    name = method if method.startswith("/") else f"/test.Echo/{method}"
    multi: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = client.unary_unary(name)
    return multi(request, metadata=tuple(metadata))


def talk(
    client: grpc.aio.Channel,
    requests: "AsyncIterator[bytes] | Iterator[bytes] | None" = None,
    metadata: Metadata = MODEL,
    **options: Any,
) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
    """A stream in both directions."""
    multi: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = client.stream_stream("/test.Echo/Talk")
    return multi(requests, metadata=tuple(metadata), timeout=TIMEOUT, **options)


async def failure(awaitable: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    try:
        await awaitable
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call did not fail")
