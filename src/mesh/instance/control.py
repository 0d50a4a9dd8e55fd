"""The gRPC server of an instance's own services, reached through the data plane's listeners."""

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mesh.dataplane import DataPlane
from mesh.instance import management
from mesh.protos import (
    POOL,
    admin_pb2_grpc,
    inference_pb2,
    peer_pb2_grpc,
)

_ADMIN = "mesh.admin.v1.Admin"
_PEER = "mesh.peer.v1.Peer"
_INFERENCE = "inference.GRPCInferenceService"
_HEALTH = health.SERVICE_NAME
_REFLECTION = reflection.SERVICE_NAME

#: What the methods of the inference service that concern no model begin with; the instance answers them itself.
_SERVER_METHODS = f"/{_INFERENCE}/Server"


class _ServerAnswers:
    """Speaks for the mesh where a client asks about the server rather than a model."""

    def __init__(self, version: str) -> None:
        self._version = version
        self.ready = False

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            _INFERENCE,
            {
                "ServerLive": _unary(self._live, inference_pb2.ServerLiveRequest),
                "ServerReady": _unary(self._ready, inference_pb2.ServerReadyRequest),
                "ServerMetadata": _unary(self._metadata, inference_pb2.ServerMetadataRequest),
            },
        )

    async def _live(self, *_: object) -> inference_pb2.ServerLiveResponse:
        return inference_pb2.ServerLiveResponse(live=True)

    async def _ready(self, *_: object) -> inference_pb2.ServerReadyResponse:
        return inference_pb2.ServerReadyResponse(ready=self.ready)

    async def _metadata(self, *_: object) -> inference_pb2.ServerMetadataResponse:
        return inference_pb2.ServerMetadataResponse(name="mesh", version=self._version)


def _unary(call: Callable[..., Awaitable[Any]], request_type: Any) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(
        call,
        request_deserializer=request_type.FromString,
        response_serializer=lambda reply: reply.SerializeToString(),
    )


class ControlServer:
    """Serves management, administration, peers' questions, health and reflection on a private unix socket.

    Args:
        models: the management API.
        admin: answers ``mesh models`` and its like.
        peer: answers other instances.
        version: of the mesh, for ``ServerMetadata``.
        max_message_bytes: largest request.
        run_dir: where the socket's directory goes; empty for the system's temporary files.
    """

    def __init__(
        self,
        models: management.ManagementService,
        admin: admin_pb2_grpc.AdminServicer,
        peer: peer_pb2_grpc.PeerServicer,
        *,
        version: str,
        max_message_bytes: int,
        run_dir: str = "",
    ) -> None:
        # A directory of its own, so that nobody else on the machine can reach the socket.
        self._run_dir = Path(tempfile.mkdtemp(prefix="mesh-", dir=run_dir or None))
        self.address = f"unix:{self._run_dir / 's'}"
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.so_reuseport", 0),
            )
        )
        self._health = health.aio.HealthServicer()
        self._answers = _ServerAnswers(version)
        self._server.add_generic_rpc_handlers((*models.handlers(), self._answers.handlers()))
        admin_pb2_grpc.add_AdminServicer_to_server(admin, self._server)
        peer_pb2_grpc.add_PeerServicer_to_server(peer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        POOL.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
        reflection.enable_server_reflection(
            (management.SERVICE, _ADMIN, _INFERENCE, _HEALTH, _REFLECTION), self._server, pool=POOL
        )
        self._server.add_insecure_port(self.address)

    async def start(self, dataplane: DataPlane) -> None:
        """Serves, and has the data plane send the control methods here."""
        await self._server.start()
        clients = [f"/{name}/" for name in (management.SERVICE, management.LEGACY_SERVICE, _ADMIN, _HEALTH)]
        clients += ["/grpc.reflection.", _SERVER_METHODS]
        dataplane.set_control(self.address, clients, [f"/{_PEER}/"])

    async def set_ready(self, ready: bool) -> None:
        """Sets the answer of the health service and of ``ServerReady``."""
        self._answers.ready = ready
        status = (
            health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in ("", management.SERVICE, _INFERENCE):
            await self._health.set(service, status)

    async def close(self, grace_s: float) -> None:
        """Ends calls under way after ``grace_s`` seconds at the latest, and removes the socket."""
        await self._server.stop(grace_s)
        shutil.rmtree(self._run_dir, ignore_errors=True)
