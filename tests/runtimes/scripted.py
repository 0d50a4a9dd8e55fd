"""A real gRPC server that serves the runtime SPI as a test tells it to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

from mesh.protos import model_runtime_pb2 as pb

Answer = Any
REQUESTS: dict[str, Any] = {
    "runtimeStatus": pb.RuntimeStatusRequest,
    "loadModel": pb.LoadModelRequest,
    "unloadModel": pb.UnloadModelRequest,
    "predictModelSize": pb.PredictModelSizeRequest,
    "modelSize": pb.ModelSizeRequest,
}


def ready(**changes: Any) -> pb.RuntimeStatusResponse:
    values: dict[str, Any] = {
        "status": pb.RuntimeStatusResponse.READY,
        "capacityInBytes": 1 << 30,
        "maxLoadingConcurrency": 2,
        "modelLoadingTimeoutMs": 5_000,
        "defaultModelSizeInBytes": 1 << 20,
        "runtimeVersion": "scripted",
    }
    return pb.RuntimeStatusResponse(**(values | changes))


@dataclass
class Scripted:
    """What it was asked, and what it answers: a message, a function, (code, message), or a list of such."""

    answers: dict[str, Answer] = field(default_factory=dict)
    service: str = "mmesh.ModelRuntime"
    calls: list[tuple[str, Any]] = field(default_factory=list)
    arrived: dict[str, asyncio.Event] = field(
        default_factory=lambda: {name: asyncio.Event() for name in REQUESTS}
    )
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    @asynccontextmanager
    async def serve(self, address: str, **options: int) -> AsyncIterator[str]:
        server, bound = await self.start(address, **options)
        try:
            yield bound
        finally:
            await server.stop(None)

    async def start(self, address: str, also: Any = None, **options: int) -> tuple[aio.Server, str]:
        """Serves; ``also`` maps further services to their handlers."""
        settings = [(f"grpc.{name}", value) for name, value in options.items()]
        server = aio.server(options=[("grpc.so_reuseport", 0), *settings])
        handlers = {name: self._handler(name) for name in REQUESTS if name in self.answers}
        services = {self.service: handlers, **(also or {})}
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
        )
        port = server.add_insecure_port(address)
        await server.start()
        return server, address if address.startswith("unix:") else f"127.0.0.1:{port}"

    def _handler(self, name: str) -> "grpc.RpcMethodHandler[Any, Any]":
        async def behave(request: Any, context: Any) -> Any:
            self.calls.append((name, request))
            self.arrived[name].set()
            answer = self.answers[name]
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if isinstance(answer, tuple):
                await context.abort(*answer)
            if callable(answer):
                try:
                    return await answer(request, context)
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            return answer

        return grpc.unary_unary_rpc_method_handler(
            behave,
            request_deserializer=REQUESTS[name].FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


async def hang(_request: Any, _context: Any) -> Any:
    await asyncio.Event().wait()
