"""Connections to the members of an etcd cluster, and which of them to ask."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc import ChannelConnectivity

from mesh.protos import etcd_rpc_pb2 as rpc
from mesh.protos import etcd_rpc_pb2_grpc as services
from mesh.registry.connection import EtcdConnection
from mesh.registry.errors import StoreUnavailable

OpenChannel = Callable[[str, Sequence[tuple[str, Any]]], grpc.aio.Channel]
"""Opens a plain-text channel with options, as `grpc.aio.insecure_channel` does."""

HEAD_START_SECONDS = 0.25
"""How long a member may take to answer before the next one is tried beside it."""
_REASON_SECONDS = 0.5


class Member:
    """A connection to one member and the services it offers."""

    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        self.endpoint = endpoint
        self.channel = channel
        self.kv = services.KVStub(channel)
        self.leases = services.LeaseStub(channel)
        self.watches = services.WatchStub(channel)
        self.auth = services.AuthStub(channel)
        self.maintenance = services.MaintenanceStub(channel)

    @property
    def connected(self) -> bool:
        """Whether requests leave at once; asking also starts to connect where it is not."""
        return self.channel.get_state(try_to_connect=True) is ChannelConnectivity.READY


class Members:
    """The members of a cluster, of which one at a time is in use.

    Clients begin at different members and stay with one until it fails.
    """

    def __init__(self, connection: EtcdConnection, opener: OpenChannel) -> None:
        self._connection = connection
        self._opener = opener
        self._members: list[Member] = []
        self._current: Member | None = None
        self._connecting: asyncio.Task[Member] | None = None
        self._closed = False

    @property
    def description(self) -> str:
        """The endpoints, for messages."""
        return ", ".join(self._connection.endpoints)

    def ready(self) -> Member | None:
        """Returns the member in use, if it is connected."""
        current = self._current
        return current if current is not None and current.connected else None

    async def connect(self, deadline: float) -> Member:
        """Waits for a connected member.

        Args:
            deadline: by the event loop's clock.

        Raises:
            StoreUnavailable: none is connected by then; nothing was sent.
        """
        if self._closed:
            raise self.closed_error()
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="etcd connect")
            self._connecting.add_done_callback(self._connected)
        connecting = self._connecting
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            if self.closed and connecting.cancelled():
                raise self.closed_error() from None
            raise
        except TimeoutError:
            raise StoreUnavailable(
                f"no member of etcd at {self.description} answers ({await self._reason()}): check the endpoints,"
                " the TLS settings and the network"
            ) from None

    @property
    def closed(self) -> bool:
        """Whether the connections are closed for good."""
        return self._closed

    def closed_error(self) -> StoreUnavailable:
        """Returns what to raise where the connections are closed for good."""
        return StoreUnavailable(f"this client of etcd at {self.description} is closed: open another")

    def fail(self, member: Member) -> None:
        """Puts a member behind the others, after it has not answered as it should."""
        if member is self._current:
            self._current = None
        if member in self._members:
            self._members.remove(member)
            self._members.append(member)

    async def close(self) -> None:
        """Closes all connections."""
        self._closed = True
        self._current = None
        if self._connecting is not None:
            self._connecting.cancel()
        members, self._members = self._members, []
        for member in members:
            await member.channel.close()

    def _connected(self, task: asyncio.Task[Member]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._current = task.result()

    async def _connect(self) -> Member:
        if not self._members:
            self._members = [self._open(endpoint) for endpoint in self._connection.endpoints]
            random.shuffle(self._members)
        waiting = [
            asyncio.create_task(_when_ready(member, place * HEAD_START_SECONDS))
            for place, member in enumerate(self._members)
        ]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in waiting:
                task.cancel()

    def _open(self, endpoint: str) -> Member:
        connection = self._connection
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1_000),
            ("grpc.max_reconnect_backoff_ms", 3_000),
            # etcd refuses pings that come more often than every 5 s, and those without a call.
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            # Where others than gRPC make the calls, the channel that tells who is connected may have none for long.
            ("grpc.client_idle_timeout_ms", (1 << 31) - 1),
        ]
        if not connection.tls:
            if connection.override_authority:
                options.append(("grpc.default_authority", connection.override_authority))
            return Member(endpoint, self._opener(endpoint, options))
        if connection.override_authority:
            options.append(("grpc.ssl_target_name_override", connection.override_authority))
        credentials = grpc.ssl_channel_credentials(
            connection.certificate, connection.client_key, connection.client_certificate
        )
        return Member(endpoint, grpc.aio.secure_channel(endpoint, credentials, options=options))

    async def _reason(self) -> str:
        """Says what the members' connections say against themselves."""

        async def ask(member: Member) -> str:
            try:
                await member.maintenance.Status(rpc.StatusRequest(), timeout=_REASON_SECONDS)
            except grpc.aio.AioRpcError as error:
                return f"{member.endpoint}: {error.details()}"
            return f"{member.endpoint} does now"

        reasons = await asyncio.gather(*(ask(member) for member in self._members), return_exceptions=True)
        return "; ".join(str(reason) for reason in reasons) or "none was tried"


async def _when_ready(member: Member, delay: float) -> Member:
    await asyncio.sleep(delay)
    await member.channel.channel_ready()
    return member
