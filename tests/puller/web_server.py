"""A web server that serves what it is given, and misbehaves as told."""

import ssl
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class WebServer:
    """Serves bytes by path.

    Attributes:
        files: content by path, without the leading slash.
        redirects: where a path leads instead.
        faults: by path, what to do instead of answering well; each is used up by one request: a status such as ``503``,
            ``truncate``, ``change``, ``gzip``, ``no-length``.
        requests: path with query and headers (lower-case names) of each request so far.
        ranges: whether parts of files can be asked for.
        forward: another server that has what is not here, the authorization that is needed for it, and the
            challenge for those who come without.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.faults: defaultdict[str, list[str]] = defaultdict(list)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.ranges = True
        self.forward: tuple[str, str, str] | None = None
        owner = self

        class Handler(_Handler):
            state = owner

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["WebServer"]:
        """Serves until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves, or that is not trusted, is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: WebServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass

    def do_GET(self) -> None:
        state = self.state
        path = unquote(urlsplit(self.path).path).lstrip("/")
        state.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        fault = state.faults[path].pop(0) if state.faults[path] else ""
        if path in state.redirects:
            self.send_response(302)
            self.send_header("Location", state.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path not in state.files and state.forward is not None:
            self._forward(*state.forward)
        elif fault.isdigit() or path not in state.files:
            body = b"<html>a page that is no model</html>"
            self.send_response(int(fault or "404"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self._file(path, fault)

    def _forward(self, to: str, authorization: str, challenge: str) -> None:
        if self.headers.get("Authorization") != authorization:
            self.send_response(401)
            self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        request = urllib.request.Request(
            to + self.path, headers={"Accept": self.headers.get("Accept", "*/*")}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            body = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, path: str, fault: str) -> None:
        if fault == "change":
            self.state.files[path] += b"!"
        content = self.state.files[path]
        tag = f'"{hash(content) & 0xFFFFFFFF:x}"'
        start, end, partial = 0, len(content), False
        wanted = self.headers.get("Range", "") if self.state.ranges else ""
        if wanted and self.headers.get("If-Range", tag) == tag:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, partial = int(first), min(end, int(last) + 1) if last else end, True
        self.send_response(206 if partial else 200)
        self.send_header("ETag", tag)
        if fault == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if fault == "no-length":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(end - start))
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        body = content[start:end]
        self.wfile.write(body[: len(body) // 2] if fault == "truncate" else body)
        if fault in {"truncate", "no-length"}:
            self.close_connection = True
