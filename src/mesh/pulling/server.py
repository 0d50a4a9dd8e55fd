"""The puller as a process of its own, between the mesh and a custom runtime that cannot pull."""

import logging
from typing import Any

import grpc
from grpc import aio

from mesh.protos import model_runtime_pb2 as pb
from mesh.protos.model_runtime_pb2_grpc import ModelRuntimeServicer, add_ModelRuntimeServicer_to_server
from mesh.puller import Puller, PullFailure
from mesh.pulling.forwarding import ForwardingRuntime
from mesh.pulling.layer import PullingRuntime
from mesh.pulling.settings import StandaloneSettings
from mesh.runtimes import ModelInfo, RuntimeFailure

_log = logging.getLogger(__name__)
_Context = aio.ServicerContext[Any, Any]


class StandalonePuller(ModelRuntimeServicer):
    """Serves ``mmesh.ModelRuntime``: pulls, and passes on what the model server is to do.

    Attributes:
        address: where it listens, once started.
    """

    def __init__(self, settings: StandaloneSettings) -> None:
        self.address = ""
        self._settings = settings
        self._puller = Puller(settings.storage)
        self._runtime = ForwardingRuntime(settings.runtime)
        self._layer = PullingRuntime(self._runtime, self._puller)
        self._server = aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])

    async def start(self) -> None:
        """Connects to the model server and listens on loopback.

        Raises:
            RuntimeFailure: there is no model server.
            RuntimeError: the port is taken.
        """
        await self._runtime.connect()
        add_ModelRuntimeServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(f"localhost:{self._settings.port}")
        self.address = f"localhost:{port}"
        await self._server.start()
        _log.info("puller listens on %s for the model server at %s", self.address, self._settings.runtime)

    async def close(self, grace_s: float = 5.0) -> None:
        """Ends what is under way after ``grace_s`` seconds; models stay loaded."""
        await self._server.stop(grace_s)
        await self._layer.close()

    async def runtimeStatus(self, request: pb.RuntimeStatusRequest, context: "_Context") -> Any:  # noqa: N802
        """Passes the question on; before a ready server is reported as such, nothing of earlier runs is left."""
        answer = await self._pass_on(self._runtime.stub.runtimeStatus, request, context)
        if answer.status == pb.RuntimeStatusResponse.READY:
            try:
                for model_id in await self._puller.model_ids():
                    await self._runtime.unload(model_id)
                await self._puller.purge()
            except (PullFailure, RuntimeFailure) as failure:
                await context.abort(grpc.StatusCode[_name(failure.code)], failure.message)
        return answer

    async def loadModel(self, request: pb.LoadModelRequest, context: "_Context") -> pb.LoadModelResponse:  # noqa: N802
        """Pulls, then has the server load from the local path."""
        model = ModelInfo(request.modelId, request.modelType, request.modelPath, request.modelKey)
        try:
            loaded = await self._layer.load(model)
        except RuntimeFailure as failure:
            await context.abort(failure.code, failure.message)
        return pb.LoadModelResponse(sizeInBytes=loaded.size_bytes, maxConcurrency=loaded.max_concurrency)

    async def unloadModel(  # noqa: N802
        self, request: pb.UnloadModelRequest, context: "_Context"
    ) -> pb.UnloadModelResponse:
        """Has the server unload, then deletes the files."""
        try:
            await self._layer.unload(request.modelId)
        except RuntimeFailure as failure:
            await context.abort(failure.code, failure.message)
        return pb.UnloadModelResponse()

    async def predictModelSize(self, request: pb.PredictModelSizeRequest, context: "_Context") -> Any:  # noqa: N802
        """Passes the question on."""
        return await self._pass_on(self._runtime.stub.predictModelSize, request, context)

    async def modelSize(self, request: pb.ModelSizeRequest, context: "_Context") -> Any:  # noqa: N802
        """Passes the question on."""
        return await self._pass_on(self._runtime.stub.modelSize, request, context)

    @staticmethod
    async def _pass_on(method: Any, request: object, context: "_Context") -> Any:
        try:
            return await method(request, timeout=context.time_remaining())
        except aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")


def _name(code: object) -> str:
    return code.name if isinstance(code, grpc.StatusCode) else str(code)
