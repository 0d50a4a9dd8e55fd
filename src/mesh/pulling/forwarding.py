"""A model server that is asked exactly what the puller was asked."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc import aio

from mesh.protos import model_runtime_pb2 as pb
from mesh.protos.model_runtime_pb2_grpc import ModelRuntimeStub
from mesh.runtimes import (
    LoadedModel,
    ModelInfo,
    ModelRuntime,
    RuntimeEvent,
    RuntimeFailure,
    RuntimeParameters,
    open_channel,
)

#: The model server must take a connection within this at the start, seconds; as KServe ModelMesh has it.
CONNECT_S = 3.0


class ForwardingRuntime(ModelRuntime):
    """Passes loads and unloads on. Whether the server is ready is for the mesh to ask, not for this.

    Args:
        address: of the server's SPI, ``host:port`` or ``unix:/path``.

    Attributes:
        stub: for what is passed on unread.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = open_channel(address)
        self.stub: Any = ModelRuntimeStub(self._channel)

    @property
    def serving_address(self) -> str:
        """Of the SPI; requests to models do not come this way."""
        return self._address

    async def connect(self) -> None:
        """Waits for a connection.

        Raises:
            RuntimeFailure: DEADLINE_EXCEEDED, there was none within `CONNECT_S`.
        """
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._channel.channel_ready()
        except TimeoutError:
            raise RuntimeFailure(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"no model server took a connection at {self._address} within {CONNECT_S:g} s; "
                "does it listen where MODEL_SERVER_ENDPOINT says?",
            ) from None

    async def start(self) -> RuntimeParameters:
        """Not for this: the mesh itself asks for the server's status, through the puller."""
        raise NotImplementedError

    async def load(self, model: ModelInfo) -> LoadedModel:
        """Passes a load on, with local paths."""
        request = pb.LoadModelRequest(
            modelId=model.model_id, modelType=model.model_type, modelPath=model.path, modelKey=model.key
        )
        try:
            answer = await self.stub.loadModel(request)
        except aio.AioRpcError as error:
            raise RuntimeFailure(
                error.code(), f"Failed to load model due to model runtime error: {error.details()}"
            ) from error
        return LoadedModel(answer.sizeInBytes, answer.maxConcurrency)

    async def unload(self, model_id: str) -> None:
        """Passes an unload on; a model that is not there is unloaded."""
        try:
            await self.stub.unloadModel(pb.UnloadModelRequest(modelId=model_id))
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise RuntimeFailure(
                    error.code(), f"Failed to unload model from runtime: {error.details()}"
                ) from error

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        """Nothing ever happens here: the mesh watches the server itself."""
        while True:
            event: RuntimeEvent = await asyncio.get_running_loop().create_future()
            yield event

    async def close(self) -> None:
        """Disconnects."""
        await self._channel.close()
