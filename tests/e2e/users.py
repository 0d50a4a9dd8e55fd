"""What a user of a mesh does: registers models, asks them, looks at their state."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from mesh.protos import admin_pb2, admin_pb2_grpc, model_mesh_pb2_grpc
from mesh.protos import model_mesh_pb2 as api
from tests.adapters.samples import Sample
from tests.e2e.pods import Pod

#: Seconds for a call that may wait for a model to be pulled and loaded, on a busy machine.
CALL_S = 60.0


def model_key(model_type: str, storage_key: str | None = "minio", **more: object) -> str:
    """A model's key as KServe writes it."""
    key: dict[str, object] = {"model_type": {"name": model_type}, **more}
    if storage_key is not None:
        key["storage_key"] = storage_key
    return json.dumps(key)


class User:
    """Talks to one pod; models that it has registered are removed when it leaves."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.channel = grpc.aio.insecure_channel(pod.address)
        self._management: Any = model_mesh_pb2_grpc.ModelMeshStub(self.channel)
        self._admin: Any = admin_pb2_grpc.AdminStub(self.channel)
        self._registered: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for model_id in tuple(self._registered):
            await self.unregister(model_id)
        await self.channel.close()

    async def register(
        self, model_id: str, model_type: str, path: str, key: str = "", *, load: bool = False
    ) -> api.ModelStatusInfo:
        """Registers a model; with ``load``, waits until it has been loaded or could not be."""
        self._registered.add(model_id)
        status: api.ModelStatusInfo = await self._management.registerModel(
            api.RegisterModelRequest(
                modelId=model_id,
                modelInfo=api.ModelInfo(type=model_type, path=path, key=key or model_key(model_type)),
                loadNow=load,
                sync=load,
            ),
            timeout=CALL_S,
        )
        return status

    async def unregister(self, model_id: str) -> None:
        self._registered.discard(model_id)
        await self._management.unregisterModel(api.UnregisterModelRequest(modelId=model_id), timeout=CALL_S)

    async def status(self, model_id: str) -> api.ModelStatusInfo:
        status: api.ModelStatusInfo = await self._management.getModelStatus(
            api.GetStatusRequest(modelId=model_id), timeout=CALL_S
        )
        return status

    async def instances(self) -> Sequence[admin_pb2.Instance]:
        reply = await self._admin.ListInstances(admin_pb2.ListInstancesRequest(), timeout=CALL_S)
        return list(reply.instances)

    async def places(self, model_id: str) -> list[str]:
        """The instances that have a copy."""
        return [copy.instance_id for copy in (await self._describe(model_id)).copies]

    async def failures(self, model_id: str) -> list[str]:
        """The instances on which a load failed, by the model's record."""
        return [failure.instance_id for failure in (await self._describe(model_id)).failures]

    async def _describe(self, model_id: str) -> admin_pb2.Model:
        request = admin_pb2.DescribeModelRequest(model_id=model_id)
        model: admin_pb2.Model = (await self._admin.DescribeModel(request, timeout=CALL_S)).model
        return model

    async def ask(self, sample: Sample, model_id: str) -> None:
        """Asks the sample's cases, with the id in metadata, and compares the answers."""
        await sample.check(self.pod.address, model_id, mm_model_id=model_id)


async def eventually(check: Callable[[], bool | Awaitable[bool]], within_s: float = CALL_S) -> None:
    """Waits until ``check`` answers true."""
    async with asyncio.timeout(within_s):
        while True:
            answer = check()
            if not isinstance(answer, bool):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.05)
