"""A rival: the proxy that one would write in Python alone, with grpc.aio and uvloop. Bytes in, bytes out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
import uvloop

RESERVED = ("grpc-", ":", "content-type", "user-agent", "te")
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]
    Call = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


class Proxy(grpc.GenericRpcHandler):
    """Sends every unary method on to one backend, with the caller's metadata and deadline."""

    def __init__(self, backend: grpc.aio.Channel) -> None:
        self._backend = backend
        self._calls: dict[str, Call] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Answers with a handler for the method, whichever it is."""
        call = self._calls.get(details.method)
        if call is None:
            call = self._calls[details.method] = self._backend.unary_unary(details.method)

        async def forward(request: bytes, context: Context) -> bytes:
            metadata = [
                (key, value)
                for key, value in context.invocation_metadata() or ()
                if not key.startswith(RESERVED)
            ]
            try:
                return await call(request, metadata=metadata, timeout=context.time_remaining())
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")

        return grpc.unary_unary_rpc_method_handler(forward)


async def serve(listen: str, backend: str) -> None:
    """Serves until the process is ended."""
    async with grpc.aio.insecure_channel(backend, options=UNLIMITED) as channel:
        server = grpc.aio.server(options=UNLIMITED)
        server.add_generic_rpc_handlers((Proxy(channel),))
        server.add_insecure_port(listen)
        await server.start()
        await server.wait_for_termination()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--backend", required=True)
    settings = parser.parse_args(arguments)
    uvloop.run(serve(settings.listen, settings.backend))


if __name__ == "__main__":
    main()
