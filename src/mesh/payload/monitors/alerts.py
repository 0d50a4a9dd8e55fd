"""What is told of windows that begin or cease to differ, and to whom."""

import asyncio
import contextlib
import logging
import ssl
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from mesh.payload.monitors.families import Watched
from mesh.payload.monitors.watch import Judgement
from mesh.payload.processor import Event
from mesh.payload.secrets import without_password

_log = logging.getLogger(__name__)

#: Drifted features in a line for people, and in the event's values: the furthest.
_NAMED, _TOLD = 5, 20
_KEPT = 100
_ATTEMPTS = 4
_FIRST_DELAY_S = 0.5
_TIMEOUT = aiohttp.ClientTimeout(total=10)


def alerts(watched: Watched, before: Judgement | None, now: Judgement) -> Iterator[Event]:
    """What is to be told of a window: that drift, or too many outliers, began or ended with it.

    Args:
        watched: whose calls the window is of.
        before: the window before.
        now: the window.
    """
    common: dict[str, Any] = {"model": watched.model, "side": watched.side, "rows": now.rows}
    drifted = now.drifted
    if bool(drifted) != bool(before and before.drifted):
        values = common | {
            "kind": "drift",
            "drifted": len(drifted),
            "features": [
                {
                    "name": feature.name,
                    "stability_index": feature.stability_index,
                    "distance": feature.distance,
                    "p_value": feature.p_value,
                }
                for feature in drifted[:_TOLD]
            ],
        }
        if drifted:
            named = ", ".join(f"{one.name} ({one.stability_index:.2f})" for one in drifted[:_NAMED])
            more = ", ..." if len(drifted) > _NAMED else ""
            what = f"{len(drifted)} of {len(now.features)} features have drifted in {now.rows} rows"
            yield Event(
                watched.model,
                f"{watched.side}s: {what}; the furthest by stability index: {named}{more}",
                values,
                warning=True,
            )
        else:
            summary = f"{watched.side}s: no feature is drifted any more in {now.rows} rows"
            yield Event(watched.model, summary, values)
    if now.outlier_share is not None and now.too_many_outliers != bool(before and before.too_many_outliers):
        values = common | {
            "kind": "outliers",
            "share": now.outlier_share,
            "largest_score": now.largest_score,
        }
        what = "too many outliers" if now.too_many_outliers else "no longer too many outliers"
        summary = f"{watched.side}s: {what}: {now.outlier_share:.1%} of {now.rows} rows"
        yield Event(watched.model, summary, values, warning=now.too_many_outliers)


class AlertPost:
    """Posts events as CloudEvents (structured mode, JSON). Those that cannot be brought are logged and let go."""

    def __init__(self, url: str, source: str, tls: ssl.SSLContext | None) -> None:
        """Prepares; connects with the first event.

        Args:
            url: that gets them.
            source: of the events.
            tls: how to trust the server.
        """
        self._url = url
        self._shown = without_password(url)
        self._source = source
        self._tls = tls
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(_KEPT)
        self._posting: asyncio.Task[None] | None = None

    def put(self, event: Event) -> None:
        """Takes an event; never waits."""
        try:
            self._waiting.put_nowait(self._encode(event))
        except asyncio.QueueFull:
            _log.warning("event is lost, %d wait for %s: %s", _KEPT, self._shown, event.summary)
            return
        if self._posting is None:
            self._posting = asyncio.get_running_loop().create_task(self._run())

    async def close(self, timeout_s: float) -> None:
        """Waits for what is under way."""
        if self._posting is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._waiting.join()
        except TimeoutError:
            _log.warning(
                "events that %s did not take in time are lost: %d", self._shown, self._waiting.qsize()
            )
        finally:
            self._posting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._posting

    async def _run(self) -> None:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            while True:
                body = await self._waiting.get()
                try:
                    await self._deliver(session, body)
                finally:
                    self._waiting.task_done()

    async def _deliver(self, session: aiohttp.ClientSession, body: bytes) -> None:
        problem = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_FIRST_DELAY_S * 2 ** (attempt - 1))
            headers = {"Content-Type": "application/cloudevents+json"}
            try:
                async with session.post(
                    self._url, data=body, headers=headers, ssl=self._tls or True
                ) as answer:
                    if answer.status < 300:
                        return
                    problem = f"status {answer.status}"
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = repr(error)
        _log.warning("event is lost, %s did not take it: %s", self._shown, problem)

    def _encode(self, event: Event) -> bytes:
        return msgspec.json.encode(
            {
                "specversion": "1.0",
                "id": str(uuid.uuid4()),
                "source": self._source or "model-mesh",
                "type": f"io.model-mesh.monitor.{event.values.get('kind', 'event')}",
                "subject": event.model_id,
                "time": datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z"),
                "datacontenttype": "application/json",
                "data": {"summary": event.summary, "warning": event.warning, **event.values},
            }
        )
