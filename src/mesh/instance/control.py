"""The control API of an instance: its methods, and a gRPC server for the two services that stream."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mesh.dataplane import DataPlane
from mesh.instance import admin_service, management, payloads, peer_service, vmodels
from mesh.instance.calls import Rpc, service
from mesh.protos import POOL, inference_pb2

_INFERENCE = "inference.GRPCInferenceService"
#: What the methods of the inference service that concern no model begin with; the instance answers them itself.
_SERVER_METHODS = f"/{_INFERENCE}/Server"


class ServerAnswers:
    """Speaks for the mesh where a client asks about the server rather than a model.

    Attributes:
        ready: the answer of ``ServerReady``.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self.ready = False

    def rpcs(self) -> dict[str, Rpc]:
        """The methods by their full names."""
        return service(
            _INFERENCE,
            {
                "ServerLive": Rpc(self._live, inference_pb2.ServerLiveRequest),
                "ServerReady": Rpc(self._ready, inference_pb2.ServerReadyRequest),
                "ServerMetadata": Rpc(self._metadata, inference_pb2.ServerMetadataRequest),
            },
        )

    async def _live(self, _: inference_pb2.ServerLiveRequest) -> inference_pb2.ServerLiveResponse:
        return inference_pb2.ServerLiveResponse(live=True)

    async def _ready(self, _: inference_pb2.ServerReadyRequest) -> inference_pb2.ServerReadyResponse:
        return inference_pb2.ServerReadyResponse(ready=self.ready)

    async def _metadata(self, _: inference_pb2.ServerMetadataRequest) -> inference_pb2.ServerMetadataResponse:
        return inference_pb2.ServerMetadataResponse(name="mesh", version=self._version)


class ControlServer:
    """Says to the data plane which methods are whose, and serves health and reflection on a private unix socket.

    Args:
        rpcs: the methods that the data plane hands over whole.
        answers: told whether the instance is ready.
        run_dir: where the socket's directory goes; empty for the system's temporary files.
    """

    def __init__(self, rpcs: Mapping[str, Rpc], answers: ServerAnswers, *, run_dir: str = "") -> None:
        # A directory of its own, so that nobody else on the machine can reach the socket.
        self._run_dir = Path(tempfile.mkdtemp(prefix="mesh-", dir=run_dir or None))
        self._address = f"unix:{self._run_dir / 's'}"
        self._rpcs = rpcs
        self._answers = answers
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        POOL.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
        reflection.enable_server_reflection(
            (
                management.SERVICE,
                admin_service.SERVICE,
                vmodels.SERVICE,
                payloads.SERVICE,
                _INFERENCE,
                health.SERVICE_NAME,
                reflection.SERVICE_NAME,
            ),
            self._server,
            pool=POOL,
        )
        self._server.add_insecure_port(self._address)

    async def start(self, dataplane: DataPlane) -> None:
        """Serves, and has the data plane send the control methods where they belong."""
        await self._server.start()
        services = (
            management.SERVICE,
            management.LEGACY_SERVICE,
            admin_service.SERVICE,
            vmodels.SERVICE,
            payloads.SERVICE,
            health.SERVICE_NAME,
        )
        prefixes = [*(f"/{name}/" for name in services), "/grpc.reflection.", _SERVER_METHODS]
        dataplane.set_control(self._address, prefixes, [f"/{peer_service.SERVICE}/"], tuple(self._rpcs))

    async def set_ready(self, ready: bool) -> None:
        """Sets the answer of the health service and of ``ServerReady``."""
        self._answers.ready = ready
        status = (
            health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", management.SERVICE, _INFERENCE):
            await self._health.set(name, status)

    async def close(self, grace_s: float) -> None:
        """Ends calls under way after ``grace_s`` seconds at the latest, and removes the socket."""
        await self._server.stop(grace_s)
        shutil.rmtree(self._run_dir, ignore_errors=True)
