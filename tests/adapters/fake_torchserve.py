"""TorchServe's gRPC services, with the behaviour and the words that release 0.12.0 was seen to have."""

import asyncio
import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from mesh.protos import torchserve_inference_pb2 as inference
from mesh.protos import torchserve_management_pb2 as management
from mesh.protos.torchserve_inference_pb2_grpc import (
    InferenceAPIsServiceServicer,
    add_InferenceAPIsServiceServicer_to_server,
)
from mesh.protos.torchserve_management_pb2_grpc import (
    ManagementAPIsServiceServicer,
    add_ManagementAPIsServiceServicer_to_server,
)

_JAVA = "org.pytorch.serve"
_MAX_PAGE = 100
WORKER_BYTES = 10_000_000


@dataclass
class Registered:
    """A version of a model, as `FakeTorchServe` has it.

    Attributes:
        request: as it came.
        content: what its archive says.
        described: how often it was.
    """

    request: management.RegisterModelRequest
    content: str
    described: int = 0


@dataclass
class FakeTorchServe(ManagementAPIsServiceServicer, InferenceAPIsServiceServicer):
    """Loads archives from a store; one that says ``broken`` does not start.

    Attributes:
        store: where the archives are.
        models: by name, with their versions; the first one is the default.
        measured_after: descriptions of a model until its workers' memory is known.
        may_manage: models can be registered and unregistered.
        healthy: what it says of itself.
        slow: a registration waits for it, whoever still listens.
    """

    store: Path
    models: dict[str, dict[str, Registered]] = field(default_factory=dict)
    measured_after: int = 1
    may_manage: bool = True
    healthy: str = "Healthy"
    slow: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    serving_port: int = 0
    _servers: list[aio.Server] = field(default_factory=list)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def start(self) -> None:
        """Serves, on the same ports as before where it did."""
        self.slow.set()
        self.port = await self._serve(add_ManagementAPIsServiceServicer_to_server, self.port)
        self.serving_port = await self._serve(add_InferenceAPIsServiceServicer_to_server, self.serving_port)

    async def stop(self) -> None:
        """Ends, and forgets all models."""
        self.slow.set()
        for server in self._servers:
            await server.stop(None)
        self._servers.clear()
        self.models.clear()

    def add(self, name: str, version: str = "1.0") -> None:
        """Has a version of a model, registered by somebody else."""
        request = management.RegisterModelRequest(model_name=name, initial_workers=1)
        self.models.setdefault(name, {})[version] = Registered(request, "")

    # The names of the methods below are those of the protocol.

    async def RegisterModel(  # noqa: N802
        self, request: management.RegisterModelRequest, context: Any
    ) -> management.ManagementResponse:
        await self._check_allowed(context)
        # It goes on where the caller has given up.
        task = asyncio.create_task(self._register(request))
        self._tasks.add(task)
        code, message = await asyncio.shield(task)
        if code is not grpc.StatusCode.OK:
            await context.abort(code, message)
        return management.ManagementResponse(msg=message)

    async def UnregisterModel(  # noqa: N802
        self, request: management.UnregisterModelRequest, context: Any
    ) -> management.ManagementResponse:
        await self._check_allowed(context)
        name = request.model_name
        if name not in self.models:
            await self._not_found(name, context)
        versions = self.models[name]
        default = next(iter(versions))
        version = request.model_version or default
        if version == default and len(versions) > 1:
            await context.abort(grpc.StatusCode.UNKNOWN, "")
        del versions[version]
        if not versions:
            del self.models[name]
        return management.ManagementResponse(msg=f'Model "{name}" unregistered')

    async def ListModels(  # noqa: N802
        self, request: management.ListModelsRequest, context: Any
    ) -> management.ManagementResponse:
        names = sorted(self.models)
        page = min(request.limit, _MAX_PAGE)
        end = request.next_page_token + page
        answer: dict[str, Any] = {} if end > len(names) else {"nextPageToken": str(end)}
        listed = names[request.next_page_token : end]
        answer["models"] = [{"modelName": name, "modelUrl": "x.mar"} for name in listed]
        return management.ManagementResponse(msg=json.dumps(answer, indent=2))

    async def DescribeModel(  # noqa: N802
        self, request: management.DescribeModelRequest, context: Any
    ) -> management.ManagementResponse:
        if request.model_name not in self.models:
            await self._not_found(request.model_name, context)
        versions = self.models[request.model_name]
        wanted = (
            versions if request.model_version == "all" else [request.model_version or next(iter(versions))]
        )
        described = []
        for version in wanted:
            model = versions[version]
            model.described += 1
            used = WORKER_BYTES if model.described > self.measured_after else 0
            workers = [
                {"id": str(9000 + n), "memoryUsage": used} for n in range(model.request.initial_workers)
            ]
            described.append({"modelName": request.model_name, "modelVersion": version, "workers": workers})
        return management.ManagementResponse(msg=json.dumps(described, indent=2))

    async def Ping(  # noqa: N802
        self, request: inference.PingRequest, context: Any
    ) -> inference.TorchServeHealthResponse:
        return inference.TorchServeHealthResponse(health=json.dumps({"status": self.healthy}, indent=2))

    async def Predictions(  # noqa: N802
        self, request: inference.PredictionsRequest, context: Any
    ) -> inference.PredictionResponse:
        name = request.model_name
        if name not in self.models:
            await context.abort(
                grpc.StatusCode.INTERNAL,
                f"Model not found: {name}\n{_JAVA}.archive.model.ModelNotFoundException",
            )
        content = next(iter(self.models[name].values())).content
        return inference.PredictionResponse(prediction=content.encode() + b":" + request.input["data"])

    async def _register(self, request: management.RegisterModelRequest) -> tuple[grpc.StatusCode, str]:
        self.arrived.set()
        await self.slow.wait()
        # As it takes what may be a URL for a file's name.
        archive = self.store / re.split(r"[/\\]", request.url)[-1]
        if ".." in request.url:
            text = f"Relative path is not allowed in url: {request.url}"
            return grpc.StatusCode.NOT_FOUND, f"{text}\n{_JAVA}.archive.model.ModelNotFoundException"
        if not archive.is_file():
            text = f"Model not found at: {request.url}"
            return grpc.StatusCode.NOT_FOUND, f"{text}\n{_JAVA}.archive.model.ModelNotFoundException"
        version, content = read_archive(archive)
        versions = self.models.setdefault(request.model_name, {})
        if version in versions:
            return grpc.StatusCode.UNKNOWN, ""
        versions[version] = Registered(request, content)
        if content == "broken":
            text = f"Failed to start workers for model {request.model_name} version: {version}"
            return grpc.StatusCode.INTERNAL, f"{text}\n{_JAVA}.http.InternalServerException"
        return grpc.StatusCode.OK, f'Model "{request.model_name}" Version: {version} registered'

    async def _check_allowed(self, context: Any) -> None:
        if not self.may_manage:
            text = f"Model API disabled\n{_JAVA}.archive.model.ModelException"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)

    async def _not_found(self, name: str, context: Any) -> None:
        text = f"Model not found: {name}\n{_JAVA}.archive.model.ModelNotFoundException"
        await context.abort(grpc.StatusCode.NOT_FOUND, text)

    async def _serve(self, add: Any, port: int) -> int:
        server = aio.server(options=[("grpc.so_reuseport", 0)])
        add(self, server)
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        self._servers.append(server)
        return bound


def write_archive(path: Path, content: str = "weights", version: str = "1.0") -> Path:
    """Writes a model's archive, as torch-model-archiver packs it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelVersion": version}}))
        archive.writestr("model.pt", content)
    return path


def read_archive(path: Path) -> tuple[str, str]:
    """Returns an archive's version and content."""
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        return manifest["model"]["modelVersion"], archive.read("model.pt").decode()
