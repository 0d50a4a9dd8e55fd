"""Channels whose calls go through the data plane's HTTP/2 client, for a small part of what gRPC's own costs.

The registry, the model server and peers are called through them as through any channel of gRPC: generated stubs
take them, failures are its `grpc.aio.AioRpcError`, deadlines and cancellation work as they do there. Unary calls and
streams in both directions that are read and written to, such as watches, take this way; the rest, and the state of the
connection, is left to a channel of gRPC that is made when it is first needed.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Self
from weakref import WeakSet

import grpc
from grpc import aio

from mesh.dataplane import Caller, Server
from mesh.instance.streams import Parse, Serialize, Stream, failure
from mesh.tracing import SpanKind, current, of_call, of_server, span

Options = Sequence[tuple[str, Any]]
"""Of a channel; here ``grpc.default_authority`` and pings without calls are heeded."""


class Channels:
    """Opens channels, and hands their answers over. Use as an async context manager around all that use them."""

    def __init__(self) -> None:
        self._caller = Caller()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._streams: dict[int, Stream] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._to_flush = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._caller.event_fd, self._take)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._caller.event_fd)
        self._caller.close()
        for answer in self._waiting.values():
            answer.cancel()
        self._waiting.clear()
        for stream in tuple(self._streams.values()):
            stream.cancel()

    def open(self, address: str, options: Options = ()) -> aio.Channel:
        """Opens a plain-text channel; it connects when it is first used.

        Raises:
            ValueError: the address is none of ``host:port``, ``[ipv6]:port`` and ``unix:/path``.
        """
        known = dict(options)
        pings = known.get("grpc.keepalive_permit_without_calls", 0)
        server = self._caller.server(
            address,
            authority=known.get("grpc.default_authority", ""),
            ping_interval_ms=known.get("grpc.keepalive_time_ms", 0) if pings else 0,
        )
        return _Channel(self, server, address, options)

    def expect(self, token: int) -> asyncio.Future[bytes]:
        """A future of the reply to a call, or of the `grpc.aio.AioRpcError` that it ended with.

        Calls that are made in one turn of the event loop begin together at its end.
        """
        self._begin_soon()
        answer = self._waiting[token] = asyncio.get_running_loop().create_future()
        return answer

    def listen(self, token: int, stream: Stream) -> None:
        """Gives a stream that was opened what its server says."""
        self._begin_soon()
        self._streams[token] = stream

    def leave(self, token: int) -> None:
        """Ends a stream."""
        if self._streams.pop(token, None) is not None:
            self._caller.cancel(token)

    def _begin_soon(self) -> None:
        if not self._to_flush:
            self._to_flush = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._to_flush = False
        self._caller.flush()

    def give_up(self, token: int) -> None:
        """Ends a call that nobody waits for any more."""
        if self._waiting.pop(token, None) is not None:
            self._caller.cancel(token)

    def _take(self) -> None:
        for token, code, said in self._caller.take():
            if (stream := self._streams.get(token)) is not None:
                if not isinstance(said, bytes):
                    del self._streams[token]
                stream.hear(code, said)
                continue
            answer = self._waiting.pop(token, None)
            if answer is None or answer.done():
                # Nobody waits for it any more.
                continue
            if isinstance(said, bytes):
                answer.set_result(said)
            else:
                answer.set_exception(failure(code, said))


class _Channel(aio.Channel):
    """One server. Closing cancels the calls under way, as closing a channel of gRPC does."""

    def __init__(self, channels: Channels, server: Server, address: str, options: Options) -> None:
        self._channels = channels
        self._server = server
        self._address = address
        self._options = options
        self._answers: set[asyncio.Future[bytes]] = set()
        self._streams: WeakSet[Stream] = WeakSet()
        self._plain: aio.Channel | None = None
        self._closed = False

    async def call(
        self, method: str, message: bytes, timeout_s: float | None, metadata: Sequence[tuple[str, str]]
    ) -> bytes:
        """Makes a call.

        Raises:
            grpc.aio.AioRpcError: any status but OK.
            grpc.aio.UsageError: the channel is closed.
        """
        if current() is None:
            return await self._make(method, message, timeout_s, metadata)
        name = method.removeprefix("/")
        with span(name, {**of_call(name), **of_server(self._address)}, kind=SpanKind.CLIENT) as made:
            if made.context is not None:
                metadata = (*metadata, ("traceparent", made.context.traceparent))
            try:
                answer = await self._make(method, message, timeout_s, metadata)
            except aio.AioRpcError as error:
                made.set(of_call(name, error.code().name))
                raise
            made.set(of_call(name, "OK"))
            return answer

    async def _make(
        self, method: str, message: bytes, timeout_s: float | None, metadata: Sequence[tuple[str, str]]
    ) -> bytes:
        if self._closed:
            raise aio.UsageError(f"the channel to {self._address} is closed")
        token = self._server.call(method, message, timeout_s, metadata)
        answer = self._channels.expect(token)
        self._answers.add(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self._channels.give_up(token)
            raise
        finally:
            self._answers.discard(answer)

    def open(
        self, method: str, metadata: Sequence[tuple[str, str]], serialize: Serialize, parse: Parse
    ) -> Stream:
        """Opens a stream in both directions.

        Raises:
            grpc.aio.UsageError: the channel is closed.
        """
        if self._closed:
            raise aio.UsageError(f"the channel to {self._address} is closed")
        talk = self._server.open(method, metadata)
        stream = Stream(talk, serialize, parse, on_cancel=partial(self._channels.leave, talk.token))
        self._channels.listen(talk.token, stream)
        self._streams.add(stream)
        return stream

    def unary_unary(
        self,
        method: str,
        request_serializer: Serialize = None,
        response_deserializer: Parse = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _UnaryUnary(self, method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serialize = None,
        response_deserializer: Parse = None,
        _registered_method: bool | None = False,
    ) -> Any:
        def open_stream(request_iterator: Any = None, *, metadata: Any = None, **options: Any) -> Any:
            if request_iterator is None and not options:
                return self.open(method, metadata or (), request_serializer, response_deserializer)
            multi = self._grpc.stream_stream(method, request_serializer, response_deserializer)
            return multi(request_iterator, metadata=metadata, **options)

        return open_stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        for answer in tuple(self._answers):
            answer.cancel()
        for stream in tuple(self._streams):
            stream.cancel()
        self._server.close()
        if self._plain is not None:
            await self._plain.close(grace)

    # What gRPC's own channel is for

    @property
    def _grpc(self) -> aio.Channel:
        if self._plain is None:
            self._plain = aio.insecure_channel(self._address, options=self._options)
        return self._plain

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._grpc.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._grpc.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._grpc.channel_ready()

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._grpc.unary_stream(*arguments, **options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._grpc.stream_unary(*arguments, **options)


class _UnaryUnary(aio.UnaryUnaryMultiCallable[Any, Any]):
    """One method of one server."""

    def __init__(
        self,
        channel: _Channel,
        method: str,
        serialize: Serialize,
        parse: Parse,
    ) -> None:
        self._channel = channel
        self._method = method
        self._serialize = serialize
        self._parse = parse

    async def __call__(  # type: ignore[override]  # gRPC's gives a call object, which nobody here but awaits
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] | None = None,
    ) -> Any:
        message = request if self._serialize is None else self._serialize(request)
        reply = await self._channel.call(self._method, message, timeout, metadata or ())
        return reply if self._parse is None else self._parse(reply)
