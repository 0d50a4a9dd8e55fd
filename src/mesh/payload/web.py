"""Posts each payload to a web server, as JSON in the form of KServe ModelMesh."""

import asyncio
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated
from urllib.parse import urlsplit

import aiohttp
import msgspec
from prometheus_client.metrics_core import Metric
from yarl import URL

from mesh.payload.members import read_members
from mesh.payload.payload import Payload, last_values
from mesh.payload.processor import InvalidProcessor, NotDelivered, Options
from mesh.payload.tls import client_tls

#: Of the time for a batch, what is left for telling which payloads were not delivered.
_TELLING_S = 0.1
#: What is read of an answer, so that its connection can be used again.
_MOST_ANSWER_BYTES = 64 << 10
#: Statuses of requests that may be accepted later.
_PASSING = frozenset({408, 425, 429})


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """What ``http:`` and ``https:`` can be given.

    Attributes:
        ca_file: certificates in PEM that alone are trusted, instead of the instance's.
        verify: whether an ``https:`` server must prove who it is.
        headers: sent with each request, such as ``Authorization``.
        connections: requests at the same time.
    """

    ca_file: str = ""
    verify: bool = True
    headers: dict[str, str] = {}
    connections: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8


class Web:
    """The processor of ``http:`` and ``https:``.

    Args:
        url: posted to.
        connections: requests at the same time.
        timeout_s: for a batch.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, connections: int, timeout_s: float) -> None:
        self._url = URL(url, encoded=True)
        self._session = session
        self._connections = connections
        self._timeout_s = timeout_s

    async def process(self, batch: Sequence[Payload]) -> None:
        """Posts each payload; what becomes of one is nothing to the others."""
        posts = _Posts(batch)
        try:
            async with asyncio.timeout(self._timeout_s), asyncio.TaskGroup() as group:
                for _ in range(min(self._connections, len(batch))):
                    group.create_task(self._post(posts))
        except TimeoutError:
            posts.timed_out = True
        posts.conclude()

    async def _post(self, posts: "_Posts") -> None:
        while (following := next(posts.next, None)) is not None:
            at, payload = following
            try:
                body = encode(payload)
                async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                    await response.content.read(_MOST_ANSWER_BYTES)
            except aiohttp.ClientConnectorError as error:
                # The others would not get there either.
                posts.failed(str(error))
                posts.next = iter(())
                return
            except (aiohttp.ClientError, OSError) as error:
                posts.failed(f"{type(error).__name__}: {error}")
            except ValueError as error:
                posts.failed(f"it cannot be read: {error}", passing=False)
            else:
                posts.answered(at, response.status, response.headers)

    async def close(self, timeout_s: float) -> None:
        """Ends the connections."""
        await self._session.close()

    def collect(self) -> Iterable[Metric]:
        """Has no families of its own."""
        return ()


class _Posts:
    """What has become of a batch."""

    def __init__(self, batch: Sequence[Payload]) -> None:
        self.next: Iterator[tuple[int, Payload]] = iter(enumerate(batch))
        self.timed_out = False
        self._undone: dict[int, Payload] = dict(enumerate(batch))
        self._why = ""
        self._may_do_better = False
        self._retry_after_s: float | None = None

    def answered(self, at: int, status: int, headers: Mapping[str, str]) -> None:
        if 200 <= status < 300:
            del self._undone[at]
            return
        self._why = f"the server answered with HTTP status {status}"
        # What is wrong with the request stays so.
        self._may_do_better |= status >= 500 or status in _PASSING
        if (after := headers.get("Retry-After", "")).isdecimal():
            self._retry_after_s = float(after)

    def failed(self, why: str, *, passing: bool = True) -> None:
        self._why = why
        self._may_do_better |= passing

    def conclude(self) -> None:
        if not self._undone:
            return
        left = list(self._undone.values())
        if self.timed_out:
            raise NotDelivered("the server did not answer in time", left, reason="timeout")
        raise NotDelivered(self._why, left, retry=self._may_do_better, retry_after_s=self._retry_after_s)


def encode(payload: Payload) -> bytes:
    """A payload as KServe ModelMesh posts it, and the method's name, which that leaves out."""
    return msgspec.json.encode(
        {
            "id": payload.id,
            "modelid": payload.model_id or None,
            "vModelId": payload.vmodel_id or None,
            "data": b64encode(payload.data or b"").decode(),
            "kind": payload.kind,
            "status": payload.status or "",
            "metadata": {
                name: value if isinstance(value, str) else b64encode(value).decode()
                for name, value in last_values(payload.metadata).items()
            },
            "method": payload.method,
        }
    )


def open_web(uri: str, options: Options) -> Web:
    """Makes the processor of ``http:`` and ``https:``; raises `InvalidProcessor`."""
    members = read_members(options, Members)
    if not urlsplit(uri).hostname:
        raise InvalidProcessor(f"payload processor {uri!r} has no host")
    tls = client_tls(options, uri, ca_file=members.ca_file, verify=members.verify)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=members.connections, ssl=tls if tls is not None else True),
        headers={"Content-Type": "application/json", **members.headers},
        # Batches have a deadline of their own.
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    return Web(uri, session, members.connections, max(options.timeout_s - _TELLING_S, options.timeout_s / 2))
