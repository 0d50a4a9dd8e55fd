"""Small HTTP endpoints (probes, metrics), each served by threads of its own.

Threads, so that a probe or a scrape is answered, and late ones are noticed, even while the event loop is busy.
"""

import logging
import ssl
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

log = logging.getLogger(__name__)

Environ = dict[str, Any]
WsgiApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class TlsSource(Protocol):
    """Where a server gets its certificate."""

    def context(self) -> ssl.SSLContext:
        """For a new connection."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # A pod's instances and tests start again on the same port at once.
    allow_reuse_address = True
    tls: TlsSource | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serves a connection, in a thread of its own, which one who is slow to shake hands keeps from nobody."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_Handler.timeout)
        try:
            encrypted = self.tls.context().wrap_socket(request, server_side=True)
        except OSError as error:
            log.debug("no TLS with %s: %s", client_address[0], error)
            return
        with encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what broke a connection off; that the client left is its own affair."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("a request of %s broke off", client_address[0], exc_info=error)


class _Handler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Requests are not logged: probes come every few seconds."""


class HttpEndpoint:
    """A WSGI application on a port, from construction until `close`.

    Args:
        setting: that names the port.
        tls: where connections are encrypted.

    Raises:
        OSError: the port cannot be bound.
    """

    def __init__(
        self, app: WsgiApp, host: str, port: int, setting: str, tls: TlsSource | None = None
    ) -> None:
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            why = f"{setting}: cannot listen on {host}:{port}: {error.strerror}"
            raise OSError(error.errno, why) from error
        self._server.tls = tls
        self._server.set_app(app)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name=f"http-{port}", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is bound, also where 0 was asked for."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stops listening; requests under way are left to their threads."""
        self._server.shutdown()
        self._server.server_close()
