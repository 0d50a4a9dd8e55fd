"""``mmesh.ModelRuntime`` as a runtime in Python serves it."""

import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import grpc
from grpc import aio

from mesh.protos import model_runtime_pb2 as pb
from mesh.protos.model_runtime_pb2_grpc import ModelRuntimeServicer
from mesh.runtimes.interface import ModelInfo
from mesh.runtimes.python.errors import failure_of
from mesh.runtimes.python.table import ModelTable

_log = logging.getLogger(__name__)

Result = TypeVar("Result")
_Context = aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the server tells the mesh of itself.

    Attributes:
        capacity_bytes: memory for models.
        default_model_size_bytes: assumed where nothing is known.
        max_loads: at once.
        loading_timeout_ms: after which the mesh gives up a load.
        max_concurrency: requests to one model at once, beyond which the mesh queues or makes copies; 0 for
            any.
    """

    capacity_bytes: int
    default_model_size_bytes: int = 1_000_000
    max_loads: int = 1
    loading_timeout_ms: int = 90_000
    max_concurrency: int = 0


class SpiService(ModelRuntimeServicer):
    """Loads and unloads as the mesh says."""

    def __init__(self, models: ModelTable, capacity: Capacity, version: str) -> None:
        self._models = models
        self._capacity = capacity
        self._version = version

    async def runtimeStatus(  # noqa: N802
        self, request: pb.RuntimeStatusRequest, context: "_Context"
    ) -> pb.RuntimeStatusResponse:
        """Unloads everything first, as the SPI asks: whoever asks believes the server to be empty."""
        await _reply(self._models.unload_all(), context, "unload of all models")
        return pb.RuntimeStatusResponse(
            status=pb.RuntimeStatusResponse.READY,
            capacityInBytes=self._capacity.capacity_bytes,
            maxLoadingConcurrency=self._capacity.max_loads,
            modelLoadingTimeoutMs=self._capacity.loading_timeout_ms,
            defaultModelSizeInBytes=self._capacity.default_model_size_bytes,
            runtimeVersion=self._version,
            limitModelConcurrency=self._capacity.max_concurrency > 0,
        )

    async def loadModel(  # noqa: N802
        self, request: pb.LoadModelRequest, context: "_Context"
    ) -> pb.LoadModelResponse:
        """Answers when the model can be asked."""
        info = ModelInfo(request.modelId, request.modelType, request.modelPath, request.modelKey)
        if not info.model_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "modelId is empty; it must name the model")
        entry = await _reply(self._models.load(info), context, f"load of {info.model_id}")
        return pb.LoadModelResponse(
            sizeInBytes=entry.size_bytes, maxConcurrency=self._capacity.max_concurrency
        )

    async def unloadModel(  # noqa: N802
        self, request: pb.UnloadModelRequest, context: "_Context"
    ) -> pb.UnloadModelResponse:
        """Answers OK for a model that is not loaded, too."""
        await _reply(self._models.unload(request.modelId), context, f"unload of {request.modelId}")
        return pb.UnloadModelResponse()

    async def predictModelSize(  # noqa: N802
        self, request: pb.PredictModelSizeRequest, context: "_Context"
    ) -> pb.PredictModelSizeResponse:
        """Answers 0 where it cannot tell."""
        info = ModelInfo(request.modelId, request.modelType, request.modelPath, request.modelKey)
        size = await _reply(self._models.predict(info), context, f"prediction for {info.model_id}")
        return pb.PredictModelSizeResponse(sizeInBytes=size or 0)

    async def modelSize(  # noqa: N802
        self, request: pb.ModelSizeRequest, context: "_Context"
    ) -> pb.ModelSizeResponse:
        """Answers what the load has measured."""
        try:
            with self._models.use(request.modelId) as entry:
                return pb.ModelSizeResponse(sizeInBytes=entry.size_bytes)
        except Exception as error:  # noqa: BLE001
            await _abort(context, error, f"size of {request.modelId}")


async def _reply(work: Awaitable[Result], context: "_Context", what: str) -> Result:
    try:
        return await work
    except Exception as error:  # noqa: BLE001  user code may raise anything
        await _abort(context, error, what)


async def _abort(context: "_Context", error: Exception, what: str) -> NoReturn:
    failure = failure_of(error)
    _log.warning("%s failed: %s", what, failure, exc_info=error)
    await context.abort(failure.code, failure.message)
    raise AssertionError("abort does not return")
