"""The schemes ``cloudevents+http`` and ``cloudevents+https``: a POST for each payload, as KServe's logger has it."""

import asyncio
import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec
from prometheus_client.metrics_core import Metric

from mesh.payload.members import read_members, require
from mesh.payload.payload import Payload
from mesh.payload.processor import InvalidProcessor, NotDelivered, Options
from mesh.payload.secrets import without_password
from mesh.payload.sinks.deadlines import within_s
from mesh.payload.sinks.events import CloudEvent, EventMembers, Events
from mesh.payload.tls import client_tls

_BUSY = frozenset({408, 425, 429})


class CloudEventsMembers(EventMembers, frozen=True, kw_only=True):
    """The members of the options, beside those of `EventMembers`.

    Attributes:
        ca_file: certificates in PEM that alone are trusted; as KServe's ``caCertFile``.
        tls_skip_verify: whether the server need not prove who it is.
        headers: sent with every event, such as ``Authorization``.
        parallel: events under way at a time in a batch.
        timeout_s: for each event.
    """

    ca_file: str = ""
    tls_skip_verify: bool = False
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    parallel: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 8
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0


def open_cloudevents(uri: str, options: Options) -> "CloudEvents":
    """Opens the sink; the URI is the address with ``cloudevents+`` before it.

    Raises:
        InvalidProcessor: the URI has no host, or a member of the options cannot be.
    """
    members = read_members(options, CloudEventsMembers)
    if members.body == "json":
        require(options, "numpy", "payload", 'options.body "json" ("message" does not)')
    url = uri.partition("+")[2]
    if not urlsplit(url).hostname:
        raise InvalidProcessor(
            f"payload processor {options.name!r}: {uri!r} has no host; it looks like cloudevents+http://host:8080/path"
        )
    tls = client_tls(options, url, ca_file=members.ca_file, verify=not members.tls_skip_verify)
    return CloudEvents(url, members, tls, options)


class CloudEvents:
    """Posts events in binary content mode."""

    def __init__(
        self, url: str, members: CloudEventsMembers, tls: ssl.SSLContext | None, options: Options
    ) -> None:
        """Prepares; connects with the first batch.

        Args:
            url: that gets the events.
            members: of the configuration.
            tls: how to trust the server.
            options: of the processor.
        """
        self._url = url
        self._shown = without_password(url)
        self._members = members
        self._tls = tls
        self._events = Events(members, options.instance_id)
        self._within_s = within_s(options)
        self._session: aiohttp.ClientSession | None = None

    async def process(self, batch: Sequence[Payload]) -> None:
        """Posts an event for each payload that the mode has.

        Raises:
            NotDelivered: some were not taken.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._members.timeout_s), headers=self._members.headers
            )
        events = self._events.of(batch, time.time())
        answers = await self._post_all(self._session, events)
        failed = [(events[at][0], answer) for at, answer in enumerate(answers) if answer.problem]
        if failed:
            # Those that are refused for good are tried again along with others; alone they are not.
            raise NotDelivered(
                f"{self._shown}: {failed[-1][1].problem}",
                [payload for payload, _ in failed],
                retry=any(answer.retry for _, answer in failed),
                retry_after_s=max((answer.retry_after_s or 0 for _, answer in failed), default=0) or None,
                reason="timeout" if any(answer is _LATE for _, answer in failed) else "",
            )

    async def close(self, timeout_s: float) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    def collect(self) -> Iterable[Metric]:
        """None."""
        return ()

    async def _post_all(
        self, session: aiohttp.ClientSession, events: Sequence[tuple[Payload, CloudEvent]]
    ) -> "list[_Answer]":
        answers = [_LATE] * len(events)
        waiting = iter(enumerate(events))

        async def post() -> None:
            for at, (_, event) in waiting:
                answers[at] = await self._post(session, event)

        try:
            async with asyncio.timeout(self._within_s), asyncio.TaskGroup() as group:
                for _ in range(min(self._members.parallel, len(events))):
                    group.create_task(post())
        except TimeoutError:
            # What was answered before is not to be sent again.
            pass
        return answers

    async def _post(self, session: aiohttp.ClientSession, event: CloudEvent) -> "_Answer":
        headers = {f"Ce-{name.capitalize()}": header_text(text) for name, text in event.attributes.items()}
        headers["Content-Type"] = event.content_type
        try:
            async with session.post(
                self._url, data=event.body, headers=headers, ssl=self._tls or True, allow_redirects=False
            ) as answer:
                await answer.read()
                if 200 <= answer.status < 300:
                    return _Answer()
                retry = answer.status in _BUSY or answer.status >= 500
                return _Answer(
                    f"status {answer.status}", retry, _seconds(answer.headers.get("Retry-After", ""))
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return _Answer(f"{type(error).__name__}: {error}", retry=True)


class _Answer(NamedTuple):
    problem: str = ""
    retry: bool = False
    retry_after_s: float | None = None


_LATE = _Answer("no answer in time", retry=True)


def header_text(text: str) -> str:
    """An attribute as a header's value: what is no printable ASCII becomes percent and its bytes in UTF-8."""
    return "".join(
        one if " " <= one <= "~" else "".join(f"%{byte:02X}" for byte in one.encode("utf-8", "replace"))
        for one in text
    )


def _seconds(text: str) -> float | None:
    return float(text) if text.isdecimal() else None
