"""Files over HTTP: one GET each, redirects followed by hand, broken transfers continued where they broke."""

import asyncio
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from mesh.puller.disk import disk_failure
from mesh.puller.failure import Code, PullFailure
from mesh.puller.provider import Advance, Workshop

T = TypeVar("T")

UNKNOWN_SIZE = -1
"""Of a file whose server does not tell."""

_CHUNK_BYTES = 1 << 20
_MAX_REDIRECTS = 10
_MAX_DOCUMENT_BYTES = 32 << 20
_UNAUTHORIZED = 401
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SHORTEST_SECRET = 4
_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CODES = {
    401: (Code.UNAUTHENTICATED, "; check the credentials of the storage config"),
    403: (Code.PERMISSION_DENIED, "; let the credentials of the storage config read it"),
    404: (Code.NOT_FOUND, ""),
    410: (Code.NOT_FOUND, ""),
    412: (Code.ABORTED, "; it changed while it was fetched"),
}


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file as its server described it.

    Attributes:
        url: where it is asked for; may hold a signature.
        size: in bytes, or `UNKNOWN_SIZE`.
        e_tag: with its quotes; empty where the server tells none.
        sha256: what its content must hash to, as lower-case hexadecimal digits; empty where nobody told.
    """

    url: URL = field(repr=False)
    size: int = UNKNOWN_SIZE
    e_tag: str = ""
    sha256: str = ""


class _Broken(Exception):
    """A request that may succeed when it is made again."""

    def __init__(self, failure: PullFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Web:
    """Talks to one place on the web, for one pull.

    Headers of its own go to the origin (scheme, host and port) that they are meant for and nowhere else, wherever
    redirects lead.
    """

    def __init__(
        self,
        workshop: Workshop,
        place: str,
        origin: URL,
        *,
        headers: Mapping[str, Sequence[str]] | None = None,
        trust: ssl.SSLContext | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        """Prepares; connects to nothing yet.

        Args:
            workshop: of the puller.
            place: for messages; without user, query and fragment.
            origin: whom the headers are for.
            headers: sent with each request.
            trust: how servers prove who they are, and this client who it is; None for the system's authorities.
            secrets: texts that must not appear in a message.
        """
        self._workshop = workshop
        self._place = place
        self._origin = origin.origin()
        self._headers = [(name, value) for name, values in (headers or {}).items() for value in values]
        self._trust = trust if trust is not None else True
        self._secrets = secrets

    @asynccontextmanager
    async def session(self) -> AsyncIterator["WebSession"]:
        """Connections for one piece of work."""
        settings = self._workshop.settings
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.stall_timeout_s
        )
        connector = aiohttp.TCPConnector(limit=settings.max_downloads, ssl=self._trust)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            yield WebSession(self, session)

    # What sessions share.

    @property
    def place(self) -> str:
        """For messages."""
        return self._place

    @property
    def workshop(self) -> Workshop:
        """Of the puller."""
        return self._workshop

    def headers_for(self, url: URL) -> list[tuple[str, str]]:
        """Those of this place's own, where the address is of its origin."""
        return self._headers if url.origin() == self._origin else []

    def failure(self, code: Code, doing: str, reason: str) -> PullFailure:
        """Words a failure without anything secret."""
        for secret in self._secrets:
            if len(secret) >= _SHORTEST_SECRET:
                reason = reason.replace(secret, "***")
        return PullFailure(code, f"cannot {doing} from {self._place}: {reason}")


class WebSession:
    """Requests over shared connections."""

    def __init__(self, web: Web, session: aiohttp.ClientSession) -> None:
        self._web = web
        self._session = session
        self._settings = web.workshop.settings

    async def describe(self, url: URL, what: str) -> WebFile:
        """Asks for the first byte of a file, to learn its size; addresses that are signed allow no HEAD.

        Raises:
            PullFailure: why it cannot be had.
        """

        async def ask() -> WebFile:
            async with self._get(url, what, {"Range": "bytes=0-0"}) as answer:
                size = UNKNOWN_SIZE
                if answer.status == _PARTIAL:
                    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                    size = int(total) if total.isdigit() else UNKNOWN_SIZE
                elif answer.status == _RANGE_NOT_SATISFIABLE:
                    size = 0
                elif answer.content_length is not None:
                    size = answer.content_length
                return WebFile(url, size, answer.headers.get("ETag", ""))

        return await self._again(ask)

    async def document(
        self, url: URL, what: str, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        """Gets a small document whole, with the headers of its answer.

        Raises:
            PullFailure: why it cannot be had.
        """

        async def ask() -> tuple[bytes, Mapping[str, str]]:
            async with self._get(url, what, dict(headers or {})) as answer:
                body = bytearray()
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    body += chunk
                    if len(body) > _MAX_DOCUMENT_BYTES:
                        raise self._web.failure(
                            Code.INVALID_ARGUMENT, what, f"it is larger than {_MAX_DOCUMENT_BYTES} bytes"
                        )
                return bytes(body), answer.headers

        return await self._again(ask)

    async def challenge(self, url: URL) -> str:
        """Tells what a server wants of those who ask for an address; empty where it wants nothing more.

        Raises:
            PullFailure: it cannot be reached.
        """

        async def ask() -> str:
            async with self._asking("log in"):
                headers = self._web.headers_for(url)
                async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
                    return (
                        answer.headers.get("WWW-Authenticate", "") if answer.status == _UNAUTHORIZED else ""
                    )

        return await self._again(ask)

    async def fetch(
        self,
        file: WebFile,
        target: Path,
        what: str,
        advance: Advance,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Fetches a file; what was written before a connection broke is kept where the server can continue.

        Returns:
            Its size in bytes.

        Raises:
            PullFailure: ABORTED, it is another one than was described; INTERNAL, its content does not hash to what
                was promised; else why it cannot be had.
        """
        settings = self._settings
        state = _Download(target, advance, hashlib.sha256() if file.sha256 else None)
        delay = settings.retry_delay_s
        for attempt in range(1, settings.attempts + 1):
            try:
                await self._continue(file, state, what, dict(headers or {}))
                break
            except _Broken as broken:
                if attempt == settings.attempts:
                    raise broken.failure from None
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            delay = min(2 * delay, settings.max_retry_delay_s)
        if state.hash is not None and state.hash.hexdigest() != file.sha256:
            raise self._web.failure(
                Code.ABORTED,
                what,
                f"its content hashes to {state.hash.hexdigest()} and not to {file.sha256}, as promised",
            )
        return state.written

    async def _continue(self, file: WebFile, state: "_Download", what: str, headers: dict[str, str]) -> None:
        # Without a strong tag the rest could be that of another content.
        if state.written and (not file.e_tag or file.e_tag.startswith("W/")):
            await state.restart(self._web.workshop)
        if state.written:
            headers |= {"Range": f"bytes={state.written}-", "If-Range": file.e_tag}
        async with self._get(file.url, what, headers) as answer:
            if state.written and answer.status != _PARTIAL:
                await state.restart(self._web.workshop)
            self._check_same(file, answer, state.written, what)
            await state.write(answer, self._web.workshop)
        if file.size not in {UNKNOWN_SIZE, state.written}:
            raise _Broken(
                self._web.failure(
                    Code.UNAVAILABLE, what, f"it ended after {state.written} of {file.size} bytes"
                )
            )

    def _check_same(self, file: WebFile, answer: aiohttp.ClientResponse, written: int, what: str) -> None:
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise self._web.failure(
                Code.INVALID_ARGUMENT, what, f"the server sends it as {encoding} although asked not to"
            )
        tag, length = answer.headers.get("ETag", ""), answer.content_length
        changed = (file.e_tag and tag and tag != file.e_tag) or (
            file.size != UNKNOWN_SIZE and length is not None and written + length != file.size
        )
        if changed:
            raise self._web.failure(
                Code.ABORTED,
                what,
                "it changed while it was fetched; load the model again once it is complete",
            )

    async def _again(self, ask: Callable[[], Awaitable[T]]) -> T:
        settings = self._settings
        delay = settings.retry_delay_s
        for _ in range(settings.attempts - 1):
            try:
                return await ask()
            except _Broken:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
                delay = min(2 * delay, settings.max_retry_delay_s)
        try:
            return await ask()
        except _Broken as broken:
            raise broken.failure from None

    @asynccontextmanager
    async def _get(
        self, url: URL, what: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Follows redirects to an answer that is a file.

        Raises:
            PullFailure: there is none.
            _Broken: there may be one the next time.
        """
        async with self._asking(what):
            for _ in range(_MAX_REDIRECTS + 1):
                sent = [*self._web.headers_for(url), ("Accept-Encoding", "identity"), *headers.items()]
                async with self._session.get(url, headers=sent, allow_redirects=False) as answer:
                    if answer.status not in _REDIRECTS or "Location" not in answer.headers:
                        self._check_status(answer, what)
                        yield answer
                        return
                    url = url.join(URL(answer.headers["Location"], encoded=True))
                if url.scheme not in {"http", "https"}:
                    raise self._web.failure(
                        Code.INVALID_ARGUMENT, what, f"it leads to a {url.scheme} address"
                    )
            raise self._web.failure(Code.INVALID_ARGUMENT, what, f"more than {_MAX_REDIRECTS} redirects")

    @asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[None]:
        try:
            yield
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # Not the error's own text: it may hold the address with its signature.
            raise self._judged(error, what) from None

    def _check_status(self, answer: aiohttp.ClientResponse, what: str) -> None:
        status = answer.status
        if status < 300 or (
            status == _RANGE_NOT_SATISFIABLE and "If-Range" not in answer.request_info.headers
        ):
            return
        reason = f"the server answers {status} {answer.reason or ''}".rstrip()
        if status in _PASSING:
            raise _Broken(self._web.failure(Code.UNAVAILABLE, what, reason))
        code, remedy = _CODES.get(status, (Code.INVALID_ARGUMENT, ""))
        raise self._web.failure(code, what, reason + remedy)

    def _judged(self, error: Exception, what: str) -> Exception:
        match error:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
                return self._web.failure(
                    Code.UNAVAILABLE,
                    what,
                    "its certificate is not trusted, or it does not trust this client's; give the authority of its "
                    "certificate as 'certificate'",
                )
            case aiohttp.ClientConnectorDNSError():
                reason, code = "its name cannot be resolved", Code.UNAVAILABLE
            case TimeoutError():
                reason, code = "timed out; the server sends nothing", Code.DEADLINE_EXCEEDED
            case aiohttp.InvalidURL() | ValueError():
                return self._web.failure(Code.INVALID_ARGUMENT, what, "the address is malformed")
            case OSError():
                reason, code = error.strerror or "the connection failed", Code.UNAVAILABLE
            case _:
                reason, code = "the connection broke", Code.UNAVAILABLE
        return _Broken(self._web.failure(code, what, reason))


class _Download:
    """What of a file is here."""

    def __init__(self, target: Path, advance: Advance, hasher: "hashlib._Hash | None") -> None:
        self._target = target
        self._advance = advance
        self.hash = hasher
        self.written = 0

    async def restart(self, workshop: Workshop) -> None:
        """Forgets what was written."""
        self._advance(-self.written)
        self.written = 0
        if self.hash is not None:
            self.hash = hashlib.sha256()
        with _on_disk():
            await workshop.run(self._target.write_bytes, b"")

    async def write(self, answer: aiohttp.ClientResponse, workshop: Workshop) -> None:
        with _on_disk():
            output = await workshop.run(self._target.open, "ab", 0)
        try:
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                with _on_disk():
                    await workshop.run(self._take, output, chunk)
                self._advance(len(chunk))
        finally:
            await workshop.run(output.close)

    def _take(self, output: Any, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            left = left[output.write(left) :]
        if self.hash is not None:
            self.hash.update(chunk)
        self.written += len(chunk)


@contextmanager
def _on_disk() -> Iterator[None]:
    """Tells the disk's failures from those of the connection, which are worth another attempt."""
    try:
        yield
    except OSError as error:
        raise disk_failure(error, "store the model") from error
