"""The registry's store in etcd, over a small client of our own.

It knows only what the registry needs, and does that the same way every time: every call has a deadline, only
what is idempotent is tried twice, a watch resumes without loss, a token is renewed when it is refused.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import grpc.aio

from mesh.protos import etcd_rpc_pb2 as rpc
from mesh.protos.etcd_kv_pb2 import Event as WireEvent
from mesh.protos.etcd_kv_pb2 import KeyValue
from mesh.registry.backoff import pause_before
from mesh.registry.connection import EtcdConnection
from mesh.registry.errors import LeaseGone, StoreDenied, StoreUnavailable
from mesh.registry.etcd_calls import Calls, Meaning, Token, meaning_of
from mesh.registry.etcd_groups import Groups
from mesh.registry.etcd_leases import KeepAlives
from mesh.registry.etcd_members import Members, OpenChannel
from mesh.registry.etcd_watch import START_SECONDS, WatchPosition, WatchRefused, watch_once
from mesh.registry.store import (
    LIST_TIMEOUT,
    PAGE_SIZE,
    WRITE_TIMEOUT,
    Batch,
    Delete,
    Entry,
    Event,
    Outcome,
    Page,
    Put,
    Store,
)

log = logging.getLogger(__name__)

_MAX_REFUSALS = 2


class EtcdStore(Store):
    """A client of an etcd cluster; it connects when it is first asked something.

    Args:
        opener: opens its plain-text channels; those with TLS are gRPC's own.
    """

    def __init__(self, connection: EtcdConnection, opener: OpenChannel = grpc.aio.insecure_channel) -> None:
        self._root = connection.root_prefix.encode(errors="surrogateescape")
        self._members = Members(connection, opener)
        self._token = Token(connection)
        self._call = Calls(self._members, self._token)
        self._keep_alives = KeepAlives(self._members, self._token)
        self._groups = Groups(self._transact)
        self._closed = False

    @property
    def description(self) -> str:
        """See `Store`."""
        return f"etcd at {self._members.description}"

    async def read(self, key: str, *, timeout: float = WRITE_TIMEOUT) -> tuple[Entry | None, int]:
        """See `Store`."""
        request = rpc.RangeRequest(key=self._wire(key))
        answer = await self._call(lambda member: member.kv.Range, request, timeout, idempotent=True)
        return self._entry(answer.kvs[0]) if answer.kvs else None, answer.header.revision

    async def page(
        self,
        prefix: str,
        *,
        after: str | None = None,
        revision: int = 0,
        limit: int = PAGE_SIZE,
        timeout: float = LIST_TIMEOUT,
    ) -> Page:
        """See `Store`."""
        first = self._wire(prefix)
        request = rpc.RangeRequest(
            key=first if after is None else self._wire(after) + b"\0",
            range_end=_end_of(first),
            limit=limit,
            revision=revision,
        )
        answer = await self._call(lambda member: member.kv.Range, request, timeout, idempotent=True)
        entries = [self._entry(pair) for pair in answer.kvs]
        return Page(entries, revision or answer.header.revision, answer.more)

    async def transact(
        self,
        expected: Mapping[str, int],
        operations: Sequence[Put | Delete],
        *,
        timeout: float = WRITE_TIMEOUT,
    ) -> Outcome:
        """See `Store`."""
        return await self._groups.transact(expected, operations, timeout)

    async def _transact(
        self, expected: Mapping[str, int], operations: Sequence[Put | Delete], timeout: float
    ) -> Outcome:
        request = rpc.TxnRequest()
        for key, revision in expected.items():
            wire = self._wire(key)
            request.compare.add(target=rpc.Compare.MOD, key=wire, mod_revision=revision)
            request.failure.add().request_range.key = wire
        for operation in operations:
            wire = self._wire(operation.key)
            if isinstance(operation, Put):
                put = request.success.add().request_put
                put.key, put.value, put.lease = wire, operation.value, operation.lease
            else:
                request.success.add().request_delete_range.key = wire
        answer = await self._call(lambda member: member.kv.Txn, request, timeout, idempotent=not operations)
        if answer.succeeded:
            return Outcome(True, answer.header.revision, {})
        entries = {
            key: self._entry(found.response_range.kvs[0]) if found.response_range.kvs else None
            for key, found in zip(expected, answer.responses, strict=True)
        }
        return Outcome(False, answer.header.revision, entries)

    async def watch(self, prefix: str, revision: int) -> AsyncGenerator[Batch, None]:
        """See `Store`."""
        key = self._wire(prefix)
        position = WatchPosition(revision)
        failures = refusals = 0
        loop = asyncio.get_running_loop()
        while not self._closed:
            member = None
            try:
                member = self._members.ready() or await self._members.connect(loop.time() + START_SECONDS)
                metadata = await self._token.metadata(member)
                async with aclosing(watch_once(member, metadata, key, _end_of(key), position)) as responses:
                    async for events in responses:
                        failures = refusals = 0
                        yield Batch([self._event(event) for event in events], position.delivered)
                continue
            except WatchRefused as error:
                refusals += 1
                if refusals >= _MAX_REFUSALS:
                    raise StoreDenied(
                        f"{self.description} refuses to watch {prefix!r} ({error}): check the user and the roles"
                        " it has"
                    ) from error
                # The server does not tell a token that has expired from a missing right.
                self._token.forget()
                trouble = str(error)
            except StoreUnavailable as error:
                trouble = str(error)
                if member is not None:
                    self._members.fail(member)
            except grpc.aio.AioRpcError as error:
                trouble = f"{error.code().name}: {error.details()}"
                if meaning_of(error) is Meaning.TOKEN:
                    self._token.forget()
                elif member is not None:
                    self._members.fail(member)
            failures += 1
            if failures == 1:
                log.info("the watch of %s resumes after revision %d: %s", prefix, position.delivered, trouble)
            await asyncio.sleep(pause_before(failures))

    async def grant(self, ttl: float, *, timeout: float = WRITE_TIMEOUT) -> int:
        """See `Store`. Etcd counts in whole seconds and has a lower bound of its own."""
        request = rpc.LeaseGrantRequest(TTL=math.ceil(ttl))
        # A lease that nobody knows of ends by itself, so that asking twice does no harm.
        answer = await self._call(lambda member: member.leases.LeaseGrant, request, timeout, idempotent=True)
        return answer.ID

    async def keep_alive(self, lease: int, *, timeout: float = WRITE_TIMEOUT) -> None:
        """See `Store`."""
        await self._keep_alives.beat(lease, timeout)

    async def revoke(self, lease: int, *, timeout: float = WRITE_TIMEOUT) -> None:
        """See `Store`."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        try:
            await self._call(lambda member: member.leases.LeaseRevoke, request, timeout, idempotent=True)
        except LeaseGone:
            log.debug("lease %x had ended already", lease)

    async def close(self) -> None:
        """See `Store`."""
        self._closed = True
        await self._groups.close()
        await self._keep_alives.close()
        await self._members.close()

    def _wire(self, key: str) -> bytes:
        return self._root + key.encode(errors="surrogateescape")

    def _text(self, key: bytes) -> str:
        return key[len(self._root) :].decode(errors="surrogateescape")

    def _entry(self, pair: KeyValue) -> Entry:
        return Entry(self._text(pair.key), pair.value, pair.mod_revision, pair.create_revision, pair.lease)

    def _event(self, event: WireEvent) -> Event:
        pair = event.kv
        if event.type == WireEvent.DELETE:
            return Event(self._text(pair.key), None, pair.mod_revision)
        entry = self._entry(pair)
        return Event(entry.key, entry, entry.mod_revision)


def _end_of(prefix: bytes) -> bytes:
    """Returns the first key behind all those with a prefix."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"
