"""An object store that misbehaves as told; the real ones never do. Speaks as S3 and Google do, and as Azure."""

import itertools
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 3


class FaultyS3:
    """Serves one bucket, in pages of three keys.

    Attributes:
        objects: content by key.
        tag: gives the entity tag of a content.
        faults: by key, what to do instead of sending the object; each is used up by one request. The key
            ``?list`` stands for listings.
        requests: method and key of each request so far.
        authorization: what requests must be authorized with; None for nothing.
        authorizations: of the requests so far.
        logins: bodies of the requests for a token, by path; each gets the token of ``token``.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: defaultdict[str, list[str]] = defaultdict(list)
        self.tag: Callable[[bytes], str] = lambda content: f"{hash(content) & 0xFFFFFFFF:08x}"
        self.damages = itertools.count(1)
        self.requests: list[tuple[str, str]] = []
        self.authorization: str | None = None
        self.authorizations: list[str] = []
        self.logins: list[tuple[str, dict[str, list[str]]]] = []
        self.token = "T0KEN"
        self.hang_up = threading.Event()
        owner = self

        class Handler(_Handler):
            server_state = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["FaultyS3"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.hang_up.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: FaultyS3

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server_state.logins.append((self.path, parse_qs(body.decode())))
        told = {"access_token": self.server_state.token, "expires_in": 3600, "token_type": "Bearer"}
        self._send(200, json.dumps(told).encode())

    def do_GET(self) -> None:
        state = self.server_state
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        listing = "list-type" in query or "comp" in query
        key = "?list" if listing else unquote(url.path).lstrip("/").partition("/")[2]
        state.requests.append((self.command, key))
        fault = state.faults[key].pop(0) if state.faults[key] else ""
        authorization = self.headers.get("authorization", "")
        state.authorizations.append(authorization)
        if state.authorization not in {None, authorization}:
            self._error(401, "InvalidToken")
        elif fault.isdigit():
            self._error(int(fault), "SlowDown" if fault == "503" else "AccessDenied")
        elif fault.startswith("code:"):
            _, status, code = fault.split(":")
            self._error(int(status), code)
        elif listing:
            self._list(query)
        elif key not in state.objects:
            self._error(404, "NoSuchKey")
        else:
            self._object(key, fault)

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        after = query.get("continuation-token", query.get("marker", [""]))[0]
        keys = sorted(key for key in self.server_state.objects if key.startswith(prefix) and key > after)
        page, rest = keys[:PAGE], keys[PAGE:]
        if "comp" in query:
            self._list_for_azure(page, page[-1] if rest else "")
            return
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(self._e_tag(key))}</ETag><Size>{len(self.server_state.objects[key])}</Size></Contents>"
            for key in page
        )
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
        self._send(
            200,
            f"<ListBucketResult><IsTruncated>{'true' if rest else 'false'}</IsTruncated>{more}{entries}"
            "</ListBucketResult>".encode(),
        )

    def _list_for_azure(self, page: list[str], marker: str) -> None:
        entries = "".join(
            f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>Mon, 01 Jan 2024 00:00:00 GMT</Last-Modified>"
            f"<Etag>{escape(self._e_tag(key))}</Etag><Content-Length>{len(self.server_state.objects[key])}"
            "</Content-Length><Content-Type>x/y</Content-Type></Properties></Blob>"
            for key in page
        )
        told = f"<Blobs>{entries}</Blobs><NextMarker>{escape(marker)}</NextMarker>"
        self._send(200, f"<EnumerationResults>{told}</EnumerationResults>".encode())

    def _object(self, key: str, fault: str) -> None:
        content = self.server_state.objects[key]
        if fault == "change":
            # Another version is there from now on.
            content = self.server_state.objects[key] = content + b"!"
        e_tag = self._e_tag(key)
        if self.headers.get("if-match") not in {None, e_tag}:
            self._error(412, "PreconditionFailed")
            return
        start, end, partial = 0, len(content), False
        if (wanted := self.headers.get("range")) and fault != "ignore-range":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, partial = int(first), min(end, int(last) + 1) if last else end, True
        body = content[start:end]
        self.send_response(206 if partial else 200)
        self.send_header("etag", e_tag)
        self.send_header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.send_header("content-length", str(len(body)))
        if partial:
            self.send_header("content-range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault in {"truncate", "ignore-range"}:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "damage":
            at = next(self.server_state.damages) % len(body)
            self.wfile.write(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
        elif fault == "drip":
            self._drip(body)
        elif fault == "stall":
            self.wfile.write(body[:1])
            self.server_state.hang_up.wait(30)
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _drip(self, body: bytes) -> None:
        for byte in body:
            if self.server_state.hang_up.wait(0.02):
                break
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
        self.close_connection = True

    def _error(self, status: int, code: str) -> None:
        signed = self.headers.get("authorization", "")
        told = f"<Code>{code}</Code><Message>told to</Message><StringToSign>{signed}</StringToSign>"
        self._send(status, f"<Error>{told}</Error>".encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _e_tag(self, key: str) -> str:
        return f'"{self.server_state.tag(self.server_state.objects[key])}"'
