"""Serves the page and what it asks for."""

import gzip
import hashlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import NamedTuple

import msgspec
from aiohttp import web

from mesh.instance.admin_service import AdminService
from mesh.instance.errors import MeshError
from mesh.instance.page import answers
from mesh.protos import admin_pb2

log = logging.getLogger(__name__)

#: Models that a search tells of.
MOST_FOUND = 30
#: Decisions told of one model.
MOST_EXPLAINED = 20
#: Searches and models that are looked up at a time; who asks beyond that is told to ask again.
MOST_QUESTIONS = 16
#: Answers that go out when the instance ends get so long, seconds.
_CLOSE_WITHIN_S = 1.0

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    # Everything is of this server, and nothing is written into the page but as text.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, and asked for again whether it is still the same.
    "Cache-Control": "no-cache",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Body(NamedTuple):
    """An answer that is made once and sent many times."""

    plain: bytes
    zipped: bytes
    tag: str
    content_type: str

    @staticmethod
    def of(plain: bytes, content_type: str) -> "_Body":
        return _Body(
            plain, gzip.compress(plain, 3, mtime=0), hashlib.sha256(plain).hexdigest()[:16], content_type
        )

    def answer(self, request: web.Request) -> web.Response:
        headers = {"ETag": f'"{self.tag}"', "Vary": "Accept-Encoding"}
        if any(tag.value == self.tag for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return self._full(self.zipped, {**headers, "Content-Encoding": "gzip"})
        return self._full(self.plain, headers)

    def _full(self, body: bytes, headers: dict[str, str]) -> web.Response:
        return web.Response(body=body, headers=headers, content_type=self.content_type, charset="utf-8")


class Page:
    """The page of one instance.

    Args:
        service_name: of the mesh.
        admin: answers for it.
    """

    def __init__(self, service_name: str, admin: AdminService) -> None:
        self._service_name = service_name
        self._admin = admin
        self._files = dict(_read_files())
        self._shown: admin_pb2.OverviewReply | None = None
        self._overview = _Body(b"", b"", "", "")
        self._questions = 0
        self._local_only = False
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Begins to serve.

        Raises:
            OSError: the port cannot be bound.
        """
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/api/overview", self._send_overview),
                web.get("/api/models", self._asked(self._search)),
                web.get("/api/model", self._asked(self._describe)),
                web.get("/{name:[a-z.]*}", self._send_file),
            ]
        )
        self._local_only = _is_loopback(host)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=_CLOSE_WITHIN_S
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stops serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        # A name that somebody else lets point to this machine: their page must not read this one.
        if self._local_only and not _is_loopback(request.url.host or ""):
            raise web.HTTPForbidden(text="this page is for this machine: open it by localhost or 127.0.0.1\n")
        try:
            response = await handler(request)
        except web.HTTPException as refusal:
            refusal.headers.update(_HEADERS)
            raise
        except MeshError as error:
            log.warning("%s could not be answered: %s", request.path, error.message)
            response = web.json_response({"error": error.message}, status=503)
        response.headers.update(_HEADERS)
        return response

    def _asked(self, handler: _Handler) -> _Handler:
        async def bounded(request: web.Request) -> web.StreamResponse:
            if self._questions >= MOST_QUESTIONS:
                raise web.HTTPServiceUnavailable(
                    text="too many questions at once: ask again\n", headers={"Retry-After": "1"}
                )
            self._questions += 1
            try:
                return await handler(request)
            finally:
                self._questions -= 1

        return bounded

    async def _send_file(self, request: web.Request) -> web.StreamResponse:
        file = self._files.get(request.match_info["name"] or "index.html")
        if file is None:
            raise web.HTTPNotFound(text="there is one page: /\n")
        return file.answer(request)

    async def _send_overview(self, request: web.Request) -> web.StreamResponse:
        reply = await self._admin.overview(admin_pb2.OverviewRequest())
        if reply is not self._shown:
            self._overview = _json(answers.overview(self._service_name, reply))
            self._shown = reply
        return self._overview.answer(request)

    async def _search(self, request: web.Request) -> web.StreamResponse:
        text = request.query.get("contains", "")
        reply = await self._admin.list_models(admin_pb2.ListModelsRequest(contains=text, limit=MOST_FOUND))
        return _json(answers.found(reply)).answer(request)

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        model_id = request.query.get("id", "")
        reply = await self._admin.describe_model(admin_pb2.DescribeModelRequest(model_id=model_id))
        if not model_id or not reply.found:
            return web.json_response({"error": "it is not registered"}, status=404)
        explained = await self._admin.explain(
            admin_pb2.ExplainRequest(model_id=model_id, limit=MOST_EXPLAINED)
        )
        return _json(answers.model(reply.model, explained.decisions)).answer(request)


def _json(content: answers.Json) -> _Body:
    return _Body.of(msgspec.json.encode(content), "application/json")


def _read_files() -> list[tuple[str, _Body]]:
    folder = resources.files("mesh.instance.page") / "static"
    return [
        (file.name, _Body.of(file.read_bytes(), _TYPES[file.name.rpartition(".")[2]]))
        for file in folder.iterdir()
    ]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
