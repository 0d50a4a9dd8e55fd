"""A web server that takes what is posted to it, and misbehaves as told."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from multidict import CIMultiDict


@dataclass(frozen=True, slots=True)
class Posted:
    """One request."""

    path: str
    headers: CIMultiDict[str]
    body: bytes


class Receiver:
    """Takes posts.

    Attributes:
        url: without a path.
        posts: those that were taken.
        answers: statuses of the next requests, before all are taken with 200; None for one that is never answered.
    """

    def __init__(self) -> None:
        self.url = ""
        self.posts: list[Posted] = []
        self.answers: list[int | None] = []
        self.headers: dict[str, str] = {}

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Receiver"]:
        """Serves until the block ends."""
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/{path:.*}", self._take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        sockets: Any = site._server
        port = sockets.sockets[0].getsockname()[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        status = self.answers.pop(0) if self.answers else 200
        if status is None:
            await asyncio.Event().wait()
        elif status == 200:
            self.posts.append(Posted(request.path_qs, CIMultiDict(request.headers), body))
        return web.Response(status=status or 200, headers=self.headers)
