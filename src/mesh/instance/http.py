"""Small HTTP endpoints (probes, metrics), each served by threads of its own.

Threads, so that a probe or a scrape is answered, and late ones are noticed, even while the event loop is busy.
"""

import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

Environ = dict[str, Any]
WsgiApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # A pod's instances and tests start again on the same port at once.
    allow_reuse_address = True


class _Handler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Requests are not logged: probes come every few seconds."""


class HttpEndpoint:
    """A WSGI application on a port, from construction until `close`.

    Raises:
        OSError: the port cannot be bound.
    """

    def __init__(self, app: WsgiApp, host: str, port: int) -> None:
        self._server = _Server((host, port), _Handler)
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
