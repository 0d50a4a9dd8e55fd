"""A model server for tests: real gRPC on a real socket, with behaviour that a test sets.

It speaks the ``mmesh.ModelRuntime`` SPI and answers every other method with the model's id, a colon and the request.
"""

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc

from mesh.protos import model_runtime_pb2 as spi
from mesh.protos import model_runtime_pb2_grpc as spi_grpc

MIB = 1 << 20


class ScriptedRuntime(spi_grpc.ModelRuntimeServicer):
    """One model server. Attributes may be changed at any time.

    Attributes:
        sizes: bytes by model id; ``size`` for others.
        true_sizes: bytes that a load turns out to take, where that is not what was predicted.
        load_delay_s: how long each load takes.
        unload_delay_s: how long each unload takes.
        refuse: model id to the code and message with which its load fails.
        hang: models whose load never ends.
        loaded: models that it has.
        paths: of the models that it was told to load, in order.
        loads, unloads, calls, predictions: how often each model was loaded, unloaded and asked, and its size
            predicted.
    """

    def __init__(
        self,
        socket: Path,
        *,
        capacity: int = 64 * MIB,
        default_size: int = 2 * MIB,
        size: int = 0,
        loading_concurrency: int = 4,
        loading_timeout_ms: int = 5_000,
        limit_concurrency: int = 0,
    ) -> None:
        self.address = f"unix:{socket}"
        self.capacity = capacity
        self.default_size = MIB if size else default_size
        self.size = size or default_size
        self.loading_concurrency = loading_concurrency
        self.loading_timeout_ms = loading_timeout_ms
        self.limit_concurrency = limit_concurrency
        self.sizes: dict[str, int] = {}
        self.true_sizes: dict[str, int] = {}
        self.paths: list[str] = []
        self.load_delay_s = 0.0
        self.unload_delay_s = 0.0
        self.call_delay_s = 0.0
        self.refuse_delay_s = 0.0
        self.refuse: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.refuse_calls: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.hang: set[str] = set()
        self.loaded: set[str] = set()
        self.loads: Counter[str] = Counter()
        self.unloads: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.predictions: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.most_running: Counter[str] = Counter()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        spi_grpc.add_ModelRuntimeServicer_to_server(self, self._server)
        self._server.add_generic_rpc_handlers((_Anything(self),))
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """Ends at once, as a process that dies, and forgets its models."""
        self.loaded.clear()
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def runtimeStatus(self, request: Any, context: Any) -> spi.RuntimeStatusResponse:  # noqa: N802
        self.loaded.clear()
        return spi.RuntimeStatusResponse(
            status=spi.RuntimeStatusResponse.READY,
            capacityInBytes=self.capacity,
            maxLoadingConcurrency=self.loading_concurrency,
            modelLoadingTimeoutMs=self.loading_timeout_ms,
            defaultModelSizeInBytes=self.default_size,
            limitModelConcurrency=self.limit_concurrency > 0,
        )

    async def loadModel(self, request: spi.LoadModelRequest, context: Any) -> spi.LoadModelResponse:  # noqa: N802
        self.loads[request.modelId] += 1
        self.paths.append(request.modelPath)
        if request.modelId in self.hang:
            await asyncio.Event().wait()
        if self.load_delay_s:
            await asyncio.sleep(self.load_delay_s)
        if refusal := self.refuse.get(request.modelId):
            await context.abort(*refusal)
        self.loaded.add(request.modelId)
        return spi.LoadModelResponse(
            sizeInBytes=self.true_sizes.get(request.modelId, self.sizes.get(request.modelId, self.size)),
            maxConcurrency=self.limit_concurrency,
        )

    async def unloadModel(self, request: spi.UnloadModelRequest, context: Any) -> spi.UnloadModelResponse:  # noqa: N802
        if self.unload_delay_s:
            await asyncio.sleep(self.unload_delay_s)
        self.unloads[request.modelId] += 1
        self.loaded.discard(request.modelId)
        return spi.UnloadModelResponse()

    async def predictModelSize(  # noqa: N802
        self, request: spi.PredictModelSizeRequest, context: Any
    ) -> spi.PredictModelSizeResponse:
        self.predictions[request.modelId] += 1
        return spi.PredictModelSizeResponse(sizeInBytes=self.sizes.get(request.modelId, self.size))

    async def modelSize(self, request: spi.ModelSizeRequest, context: Any) -> spi.ModelSizeResponse:  # noqa: N802
        return spi.ModelSizeResponse(sizeInBytes=self.sizes.get(request.modelId, self.size))


class _Anything(grpc.GenericRpcHandler):
    def __init__(self, runtime: ScriptedRuntime) -> None:
        self._runtime = runtime

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if details.method.startswith("/mmesh."):
            return None
        if details.method.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(self._chat)
        return grpc.unary_unary_rpc_method_handler(self._call)

    def _model(self, context: Any) -> str:
        metadata = dict(context.invocation_metadata())
        return str(metadata["mm-model-id-bin"], "utf-8") if "mm-model-id-bin" in metadata else ""

    async def _begin(self, context: Any) -> str:
        runtime, model_id = self._runtime, self._model(context)
        runtime.calls[model_id] += 1
        if model_id not in runtime.loaded:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"model {model_id} is not loaded")
        if refusal := runtime.refuse_calls.get(model_id):
            if runtime.refuse_delay_s:
                await asyncio.sleep(runtime.refuse_delay_s)
            await context.abort(*refusal)
        return model_id

    async def _call(self, request: bytes, context: Any) -> bytes:
        runtime, model_id = self._runtime, await self._begin(context)
        runtime.running[model_id] += 1
        runtime.most_running[model_id] = max(runtime.most_running[model_id], runtime.running[model_id])
        try:
            if runtime.call_delay_s:
                await asyncio.sleep(runtime.call_delay_s)
        finally:
            runtime.running[model_id] -= 1
        return model_id.encode() + b":" + request

    async def _chat(self, requests: Any, context: Any) -> Any:
        model_id = await self._begin(context)
        async for request in requests:
            yield model_id.encode() + b":" + request


async def _main(socket: str) -> None:
    runtime = ScriptedRuntime(Path(socket))
    runtime.load_delay_s = float(os.environ.get("SCRIPTED_LOAD_DELAY_S", "0"))
    await runtime.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
