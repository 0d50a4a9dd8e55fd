"""Serves the webhook over HTTPS; a certificate that changed on disk counts at the next connection."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from aiohttp import web

from mesh.controller.webhook.review import review

_log = logging.getLogger(__name__)

#: As in KServe ModelMesh.
PATH = "/validate-serving-modelmesh-io-v1alpha1-servingruntime"
#: Between two looks at the certificate, seconds.
_RENEWAL_S = 30.0


class Webhook:
    """The validating webhook.

    Args:
        port: to listen on, of all interfaces.
        certificates: directory of ``tls.crt`` and ``tls.key``.
        server_types: that have an adapter, read at each review.
    """

    def __init__(self, port: int, certificates: Path, server_types: Callable[[], Sequence[str]]) -> None:
        self._port = port
        self._files = certificates / "tls.crt", certificates / "tls.key"
        self._server_types = server_types
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._loaded: tuple[float, ...] = ()

    async def run(self) -> None:
        """Serves until cancelled.

        Raises:
            OSError: the certificate is not there or cannot be read, or the port is taken.
        """
        self._load()
        app = web.Application()
        app.add_routes([web.post(PATH, self._answer)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, port=self._port, ssl_context=self._context).start()
            while True:
                await asyncio.sleep(_RENEWAL_S)
                try:
                    self._load()
                except OSError as problem:
                    _log.error(
                        "the webhook's certificate cannot be read again: %s; the old one stays", problem
                    )
        finally:
            await runner.cleanup()

    def _load(self) -> None:
        times = tuple(file.stat().st_mtime for file in self._files)
        if times != self._loaded:
            self._context.load_cert_chain(*self._files)
            self._loaded = times

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            admission = await request.json()
            return web.json_response(review(admission, self._server_types()))
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            return web.Response(status=400, text=f"this is no AdmissionReview of a runtime: {problem!r}")
