"""The other instances of the mesh, and what can be asked of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import grpc

from mesh.dataplane import DataPlane
from mesh.instance.errors import MeshError, Reason, model_not_found
from mesh.protos import peer_pb2, peer_pb2_grpc, vmodels_pb2
from mesh.runtimes import OpenChannel

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")

#: A peer that is alive answers a question about itself well within this, seconds.
QUESTION_TIMEOUT_S = 2.0

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class Peer:
    """Another instance: its place in the data plane and a channel for control calls.

    Attributes:
        instance_id: unique in the mesh.
        address: ``host:port`` of its peer listener.
        endpoint: its number in this instance's data plane.
    """

    def __init__(self, instance_id: str, address: str, endpoint: int, open_channel: OpenChannel) -> None:
        self._open_channel = open_channel
        self.instance_id = instance_id
        self.address = address
        self.endpoint = endpoint
        self._channel: grpc.aio.Channel | None = None
        self._stub: peer_pb2_grpc.PeerStub | None = None
        self._left = False

    @property
    def _calls(self) -> peer_pb2_grpc.PeerStub:
        if self._stub is None:
            self._channel = self._open_channel(self.address, _CHANNEL_OPTIONS)
            self._stub = peer_pb2_grpc.PeerStub(self._channel)
        return self._stub

    async def load(self, request: peer_pb2.LoadRequest, timeout_s: float) -> peer_pb2.LoadReply:
        """Has the peer load a model, or wait for its load.

        Raises:
            MeshError: the peer could not be asked. Whether it loads the model is then unknown.
        """
        return await self._asked(lambda peer: peer.Load(request, timeout=timeout_s), request.model_id)

    async def copy_status(self, model_id: str) -> peer_pb2.CopyStatusReply:
        """Asks for the state of the peer's copy.

        Raises:
            MeshError: the peer could not be asked.
        """
        request = peer_pb2.CopyStatusRequest(model_id=model_id)
        return await self._asked(lambda peer: peer.CopyStatus(request, timeout=QUESTION_TIMEOUT_S), model_id)

    async def answers(self) -> bool:
        """Whether the peer answers at all."""
        try:
            await self.copy_status("")
        except MeshError:
            return False
        return True

    async def models(self, among: Sequence[str] = (), most: int = 0) -> peer_pb2.LocalModelsReply:
        """Asks for the peer's copies.

        Args:
            among: the models that are asked about; all where empty.
            most: copies that it is to tell of; 0 for any number.

        Raises:
            MeshError: the peer could not be asked.
        """
        only = among[0] if len(among) == 1 else ""
        request = peer_pb2.LocalModelsRequest(model_id=only, among=() if only else among, most=most)
        return await self._asked(lambda peer: peer.LocalModels(request, timeout=QUESTION_TIMEOUT_S), only)

    async def decisions(
        self, model_id: str, limit: int, *, since_ms: int = 0, brief: bool = False
    ) -> peer_pb2.LocalDecisionsReply:
        """Asks for the peer's recent decisions, newest first.

        Args:
            model_id: that they are about; any where empty.
            limit: of their number.
            since_ms: that they were made at or after, epoch milliseconds.
            brief: leave the candidates out.

        Raises:
            MeshError: the peer could not be asked.
        """
        request = peer_pb2.LocalDecisionsRequest(
            model_id=model_id, limit=limit, since_ms=since_ms, brief=brief
        )
        return await self._asked(
            lambda peer: peer.LocalDecisions(request, timeout=QUESTION_TIMEOUT_S), model_id
        )

    async def comparison(self, vmodel_id: str, shadow_model_id: str) -> vmodels_pb2.Comparison:
        """Asks for what the peer counted of a vmodel's shadow.

        Raises:
            MeshError: the peer could not be asked.
        """
        request = peer_pb2.LocalComparisonRequest(vmodel_id=vmodel_id, shadow_model_id=shadow_model_id)
        return await self._asked(
            lambda peer: peer.LocalComparison(request, timeout=QUESTION_TIMEOUT_S), shadow_model_id
        )

    async def _asked(
        self, call: Callable[[peer_pb2_grpc.PeerStub], Awaitable[Reply]], model_id: str
    ) -> Reply:
        if self._left:
            raise self._unreachable(model_id, "it left the mesh")
        try:
            return await call(self._calls)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise model_not_found(model_id) from None
            raise self._unreachable(model_id, error.details() or "", error.code()) from None
        except asyncio.CancelledError:
            # Closing a channel cancels its calls, and with them those who wait, who were not cancelled themselves.
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise self._unreachable(model_id, "it left the mesh meanwhile") from None
            raise

    def _unreachable(
        self, model_id: str, why: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    ) -> MeshError:
        if code is not grpc.StatusCode.DEADLINE_EXCEEDED:
            code = grpc.StatusCode.UNAVAILABLE
        return MeshError(
            code,
            Reason.UNREACHABLE,
            f"instance {self.instance_id} at {self.address} did not answer: {why}",
            model_id,
            retry_after_s=1.0,
        )

    async def close(self) -> None:
        """Ends the control channel and what is asked through it."""
        self._left = True
        if self._channel is not None:
            await self._channel.close()


class Peers:
    """The peers that are there now, by instance id."""

    def __init__(self, dataplane: DataPlane, open_channel: OpenChannel) -> None:
        self._dataplane = dataplane
        self._open_channel = open_channel
        self._peers: dict[str, Peer] = {}
        self._by_endpoint: dict[int, Peer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._peers.values()))

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, instance_id: str) -> Peer | None:
        """The peer of this id, if it is there."""
        return self._peers.get(instance_id)

    def at(self, endpoint: int) -> Peer | None:
        """The peer of this endpoint, if it is there."""
        return self._by_endpoint.get(endpoint)

    def add(self, instance_id: str, address: str) -> Peer:
        """Makes a peer known, in the place of one of the same id at another address."""
        known = self._peers.get(instance_id)
        if known is not None:
            if known.address == address:
                return known
            self.remove(instance_id)
        endpoint = self._dataplane.add_endpoint(address, "peer", instance_id)
        peer = Peer(instance_id, address, endpoint, self._open_channel)
        self._peers[instance_id] = peer
        self._by_endpoint[endpoint] = peer
        log.info("peer joined", extra={"peer": instance_id, "address": address})
        return peer

    def remove(self, instance_id: str) -> None:
        """Forgets a peer; requests under way to it end by themselves."""
        peer = self._peers.pop(instance_id, None)
        if peer is None:
            return
        del self._by_endpoint[peer.endpoint]
        self._dataplane.remove_endpoint(peer.endpoint)
        task = asyncio.get_running_loop().create_task(peer.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        log.info("peer left", extra={"peer": instance_id})

    async def close(self) -> None:
        """Forgets all peers."""
        for instance_id in tuple(self._peers):
            self.remove(instance_id)
        await asyncio.gather(*self._closing)
