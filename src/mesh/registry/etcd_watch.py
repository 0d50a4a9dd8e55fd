"""One watch on one stream: responses in, batches of whole revisions out."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import grpc
import grpc.aio

from mesh.protos import etcd_rpc_pb2 as rpc
from mesh.protos.etcd_kv_pb2 import Event as WireEvent
from mesh.registry.errors import Compacted, StoreUnavailable
from mesh.registry.etcd_calls import Metadata
from mesh.registry.etcd_members import Member

log = logging.getLogger(__name__)

START_SECONDS = 5.0
"""Within which a server must confirm a watch."""
ASK_SECONDS = 5.0
"""A quiet server is asked so often whether it still is there..."""
SILENT_SECONDS = 30.0
"""...and given up after so long without any word."""
_WHOLE_STREAM = -1
_ASK = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())


class WatchRefused(Exception):
    """The server ended a watch on its own account; the text is its reason."""


class WatchPosition:
    """Where a watch resumes: after the last change that was delivered, whole revisions at a time.

    The revision in a response's header is the store's newest, which while catching up is far ahead of what
    was delivered; it counts in an empty notification alone. Even that is held back until the next one, since
    older servers may send it before changes that it covers.
    """

    def __init__(self, start: int) -> None:
        self.delivered = start - 1
        self._notified = 0
        self._pending: list[WireEvent] = []

    @property
    def start_revision(self) -> int:
        """What to ask the server for: the last delivered revision, whose changes are passed over.

        Asked for the one after it, a server says nothing at all until something changes.
        """
        return max(1, self.delivered)

    def drop_fragments(self) -> None:
        """Forgets what came of a response whose rest was lost with its stream."""
        self._pending.clear()

    def take(self, response: rpc.WatchResponse) -> Sequence[WireEvent] | None:
        """Takes in a response.

        Returns:
            The events to deliver now, none for a sign of life; None where the rest of them is still to come.
        """
        if response.events:
            self._pending.extend(response.events)
            if response.fragment:
                return None
            events, self._pending = self._pending, []
            if events[0].kv.mod_revision <= self.delivered:
                events = [event for event in events if event.kv.mod_revision > self.delivered]
            if events:
                self.delivered = events[-1].kv.mod_revision
            return events
        if response.watch_id != _WHOLE_STREAM and not response.created:
            self.delivered = max(self.delivered, self._notified)
            self._notified = response.header.revision
        return ()


async def watch_once(
    member: Member, metadata: Metadata, key: bytes, range_end: bytes, position: WatchPosition
) -> AsyncGenerator[Sequence[WireEvent], None]:
    """Watches a range over one stream until it breaks.

    Raises:
        Compacted: the position is gone, or the store has gone back behind it.
        WatchRefused: the server does not want to.
        StoreUnavailable: the server fell silent or ended the stream.
        grpc.aio.AioRpcError: the stream broke.
    """
    position.drop_fragments()
    stream = member.watches.Watch(metadata=metadata)
    pulse = _Pulse(member, stream)
    try:
        create = rpc.WatchCreateRequest(
            key=key,
            range_end=range_end,
            start_revision=position.start_revision,
            progress_notify=True,
            fragment=True,
        )
        await _send(member, stream, rpc.WatchRequest(create_request=create))
        while True:
            response = await _receive(member, stream)
            pulse.beat()
            if response.canceled:
                _raise_cancelled(member, response)
            if response.created:
                if response.header.revision < position.delivered:
                    raise Compacted(
                        f"etcd at {member.endpoint} is at revision {response.header.revision}, behind"
                        f" {position.delivered}, which was seen: list again"
                    )
                continue
            events = position.take(response)
            if events is not None:
                yield events
    finally:
        pulse.end()
        stream.cancel()


class _Pulse:
    """Asks a quiet server whether it is there, and cancels the stream of one that has fallen silent.

    A task beside the reader's costs nothing per message, unlike a time limit on each read.
    """

    def __init__(self, member: Member, stream: Any) -> None:
        self._member = member
        self._stream = stream
        self._heard = -math.inf
        self._started = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="etcd watch pulse")

    def beat(self) -> None:
        """Takes in that the server has said something."""
        self._heard = time.monotonic()
        self._started.set()

    def end(self) -> None:
        """Stops asking."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._started.wait()
            while (quiet := time.monotonic() - self._heard) < SILENT_SECONDS:
                await _send(self._member, self._stream, _ASK)
                await asyncio.sleep(ASK_SECONDS)
            log.warning("etcd at %s says nothing on a watch for %.0f s", self._member.endpoint, quiet)
        except TimeoutError:
            log.warning("etcd at %s does not begin a watch", self._member.endpoint)
        except (StoreUnavailable, grpc.aio.AioRpcError):
            return
        self._stream.cancel()


async def _receive(member: Member, stream: Any) -> rpc.WatchResponse:
    try:
        response = await stream.read()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise StoreUnavailable(
            f"the watch over etcd at {member.endpoint} was silent, or its connection was closed"
        ) from None
    if response is grpc.aio.EOF:
        code, details = await stream.code(), await stream.details()
        raise StoreUnavailable(f"etcd at {member.endpoint} ended a watch ({code.name}: {details})")
    return cast("rpc.WatchResponse", response)


async def _send(member: Member, stream: Any, request: rpc.WatchRequest) -> None:
    try:
        await stream.write(request)
    except asyncio.InvalidStateError as error:
        raise StoreUnavailable(f"etcd at {member.endpoint} ended a watch: {error}") from error


def _raise_cancelled(member: Member, response: rpc.WatchResponse) -> None:
    if response.compact_revision:
        raise Compacted(
            f"etcd at {member.endpoint}: the watched revision is compacted away, the oldest left is"
            f" {response.compact_revision}: list again",
            response.compact_revision,
        )
    raise WatchRefused(response.cancel_reason or "the server cancelled the watch without a reason")
