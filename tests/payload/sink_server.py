"""A real web server that payloads are posted to."""

import asyncio
import json
import ssl
from contextlib import AsyncExitStack
from typing import Any, Self

from aiohttp import web


class SinkServer:
    """Keeps what it is sent. Use as an async context manager.

    Attributes:
        status: what it answers with.
        hangs: it takes requests and answers none.
        bodies: as they were received.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.status = 200
        self.hangs = False
        self.answer_headers: dict[str, str] = {}
        self.bodies: list[bytes] = []
        self.requests: list[web.BaseRequest] = []
        self._tls = tls
        self._stack = AsyncExitStack()
        self.port = 0

    @property
    def payloads(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    @property
    def uri(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://localhost:{self.port}/sink"

    async def __aenter__(self) -> Self:
        runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "localhost", 0, ssl_context=self._tls)
        await site.start()
        self.port = runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        if self.hangs:
            await asyncio.sleep(3_600)
        self.requests.append(request)
        if 200 <= self.status < 300:
            self.bodies.append(body)
        return web.Response(status=self.status, headers=self.answer_headers)
