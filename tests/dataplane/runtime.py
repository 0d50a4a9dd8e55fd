"""A gRPC server that takes any message, as the model server behind the data plane."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Self, TypeAlias

import grpc
import grpc.aio

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

DETAILS = b"\x08\x05\x12\x04gone"


class Runtime(grpc.GenericRpcHandler):
    """Methods of ``test.Echo``; what they saw is kept."""

    def __init__(self, address: str = "127.0.0.1:0", options: list[tuple[str, Any]] | None = None) -> None:
        self.server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), *(options or [])])
        self.server.add_generic_rpc_handlers((self,))
        port = self.server.add_insecure_port(address)
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        #: Metadata of every request, in order.
        self.seen: list[dict[str, str | bytes]] = []
        self.messages: list[bytes] = []
        #: Seconds that each request had left.
        self.time_left: list[float | None] = []
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.release = asyncio.Event()
        #: What `model` answers for each model; None is to wait for ``release``.
        self.models: dict[str, bytes | grpc.StatusCode | None] = {}

    async def __aenter__(self) -> Self:
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release.set()
        await self.server.stop(0)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Finds a method by its last name."""
        handlers: dict[str, Callable[[], grpc.RpcMethodHandler[Any, Any]]] = {
            "Unary": lambda: grpc.unary_unary_rpc_method_handler(self.unary),
            "Fail": lambda: grpc.unary_unary_rpc_method_handler(self.fail),
            "Wait": lambda: grpc.unary_unary_rpc_method_handler(self.wait),
            "Model": lambda: grpc.unary_unary_rpc_method_handler(self.model),
            "Grow": lambda: grpc.unary_unary_rpc_method_handler(self.grow),
            "Collect": lambda: grpc.stream_unary_rpc_method_handler(self.collect),
            "Spread": lambda: grpc.unary_stream_rpc_method_handler(self.spread),
            "Talk": lambda: grpc.stream_stream_rpc_method_handler(self.talk),
        }
        make = handlers.get(handler_call_details.method.rsplit("/", 1)[-1])
        return make() if make else None

    def _see(self, context: Context) -> dict[str, str | bytes]:
        metadata = dict(context.invocation_metadata() or ())
        self.seen.append(metadata)
        self.time_left.append(context.time_remaining())
        return metadata

    async def unary(self, request: bytes, context: Context) -> bytes:
        """Gives the request back, with metadata before and after it."""
        self._see(context)
        self.messages.append(request)
        await context.send_initial_metadata((("first", "1"), ("first-bin", b"\x00\xff")))
        context.set_trailing_metadata((("last", "2"), ("last-bin", b"\xff\x00")))
        return request

    async def fail(self, request: bytes, context: Context) -> bytes:
        """Fails as the metadata says."""
        metadata = self._see(context)
        if metadata.get("early"):
            await context.send_initial_metadata((("first", "1"),))
        code = next(code for code in grpc.StatusCode if code.value[0] == int(metadata["code"]))
        trailers = (("last", "2"), ("grpc-status-details-bin", DETAILS))
        await context.abort(code, str(metadata.get("message", "")), trailers)

    async def wait(self, request: bytes, context: Context) -> bytes:
        """Answers once the test allows it."""
        self._see(context)
        self.messages.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return request

    async def model(self, request: bytes, context: Context) -> bytes:
        """Answers as ``models`` says, by default with the request and the model's id."""
        model_id = self._see(context)["mm-model-id-bin"]
        assert isinstance(model_id, bytes)
        answer = self.models.get(model_id.decode(), request + model_id)
        if answer is None:
            return await self.wait(request, context)
        if isinstance(answer, grpc.StatusCode):
            trailers = (("last", "2"), ("grpc-status-details-bin", DETAILS))
            await context.abort(answer, f"no {model_id.decode()} today", trailers)
        return answer

    async def grow(self, request: bytes, context: Context) -> bytes:
        """Gives as many bytes as the request says."""
        self._see(context)
        return bytes(int(request))

    async def collect(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Joins the requests."""
        self._see(context)
        self.messages.extend([request async for request in requests])
        return b"".join(self.messages)

    async def spread(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Gives the request back byte by byte."""
        self._see(context)
        for byte in request:
            yield bytes([byte])

    async def talk(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Gives each request back as it comes."""
        self._see(context)
        await context.send_initial_metadata((("first", "1"),))
        self.running += 1
        try:
            async for request in requests:
                self.messages.append(request)
                yield request
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        context.set_trailing_metadata((("last", "2"),))
