"""Meshes for tests: instances in this process, over an embedded registry, each with a scripted model server."""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import grpc

from mesh.instance import Channels, EvictionSettings, Instance, LifecycleSettings, Settings
from mesh.protos import admin_pb2, admin_pb2_grpc, model_mesh_pb2, model_mesh_pb2_grpc, vmodels_pb2_grpc
from mesh.puller import Puller, PullerSettings
from mesh.pulling import PullingRuntime
from mesh.registry import MemoryCluster, MemoryStore, Store, open_store
from mesh.runtimes import ModelRuntime, RuntimeEndpoints, SpiRuntime
from tests.instance.scripted_runtime import ScriptedRuntime

_METHOD = "/test.Echo/Call"
_STREAM = "/test.Echo/CallStream"


class Client:
    """What a user of one instance can do."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(address)
        self.management: model_mesh_pb2_grpc.ModelMeshStub = model_mesh_pb2_grpc.ModelMeshStub(self.channel)
        self.admin: admin_pb2_grpc.AdminStub = admin_pb2_grpc.AdminStub(self.channel)
        self.vmodels: vmodels_pb2_grpc.VModelsStub = vmodels_pb2_grpc.VModelsStub(self.channel)
        self._call: Any = self.channel.unary_unary(_METHOD)
        self._stream: Any = self.channel.stream_stream(_STREAM)

    async def infer(self, model_id: str, body: bytes = b"x", timeout_s: float = 20, **metadata: str) -> bytes:
        pairs = (
            ("mm-model-id", model_id),
            *((name.replace("_", "-"), value) for name, value in metadata.items()),
        )
        return bytes(await self._call(body, metadata=pairs, timeout=timeout_s))

    async def infer_vmodel(self, vmodel_id: str, body: bytes = b"x") -> bytes:
        return bytes(await self._call(body, metadata=(("mm-vmodel-id", vmodel_id),), timeout=20))

    async def infer_several(self, model_ids: Sequence[str], body: bytes = b"x", required: str = "") -> bytes:
        pairs = [("mm-model-id", model_id) for model_id in model_ids]
        if required:
            pairs.append(("mm-required", required))
        return bytes(await self._call(body, metadata=pairs, timeout=20))

    def open_stream(self, model_id: str) -> Any:
        return self._stream(metadata=(("mm-model-id", model_id),))

    async def register(
        self,
        model_id: str,
        *,
        model_type: str = "test",
        path: str = "",
        key: str = "",
        load: bool = False,
        sync: bool = False,
    ) -> model_mesh_pb2.ModelStatusInfo:
        return await self.management.registerModel(
            model_mesh_pb2.RegisterModelRequest(
                modelId=model_id,
                modelInfo=model_mesh_pb2.ModelInfo(type=model_type, path=path, key=key),
                loadNow=load,
                sync=sync,
            ),
            timeout=20,
        )

    async def unregister(self, model_id: str) -> None:
        await self.management.unregisterModel(
            model_mesh_pb2.UnregisterModelRequest(modelId=model_id), timeout=20
        )

    async def set_vmodel(
        self,
        vmodel_id: str,
        target: str,
        *,
        info: model_mesh_pb2.ModelInfo | None = None,
        timeout_s: float = 20,
        **fields: Any,
    ) -> model_mesh_pb2.VModelStatusInfo:
        return await self.management.setVModel(
            model_mesh_pb2.SetVModelRequest(
                vModelId=vmodel_id, targetModelId=target, modelInfo=info, **fields
            ),
            timeout=timeout_s,
        )

    async def delete_vmodel(self, vmodel_id: str, owner: str = "") -> None:
        request = model_mesh_pb2.DeleteVModelRequest(vModelId=vmodel_id, owner=owner)
        await self.management.deleteVModel(request, timeout=20)

    async def vmodel_status(self, vmodel_id: str, owner: str = "") -> model_mesh_pb2.VModelStatusInfo:
        return await self.management.getVModelStatus(
            model_mesh_pb2.GetVModelStatusRequest(vModelId=vmodel_id, owner=owner), timeout=20
        )

    async def status(self, model_id: str) -> model_mesh_pb2.ModelStatusInfo:
        return await self.management.getModelStatus(
            model_mesh_pb2.GetStatusRequest(modelId=model_id), timeout=20
        )

    async def ensure_loaded(self, model_id: str, *, sync: bool = True) -> model_mesh_pb2.ModelStatusInfo:
        return await self.management.ensureLoaded(
            model_mesh_pb2.EnsureLoadedRequest(modelId=model_id, sync=sync), timeout=20
        )

    async def explain(self, model_id: str = "") -> Sequence[Any]:
        reply = await self.admin.Explain(admin_pb2.ExplainRequest(model_id=model_id, limit=1_000), timeout=20)
        return reply.decisions

    async def describe(self, model_id: str) -> admin_pb2.Model:
        return (
            await self.admin.DescribeModel(admin_pb2.DescribeModelRequest(model_id=model_id), timeout=20)
        ).model


class Mesh:
    """Some instances that share a registry. Use as an async context manager.

    Args:
        folder: for sockets.
        kv_store: of the registry, as in the setting; an embedded one without it.

    Attributes:
        registry: the embedded one; may be stopped and started.
    """

    _names = itertools.count()

    def __init__(self, folder: Path, kv_store: str = "") -> None:
        self._folder = folder
        self._kv_store = kv_store
        self._stack = AsyncExitStack()
        self.registry = MemoryCluster()
        self.instances: list[Instance] = []
        self.runtimes: list[ScriptedRuntime] = []
        self.clients: list[Client] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def add(
        self,
        runtime: ScriptedRuntime | None = None,
        *,
        router: bool = False,
        puller: PullerSettings | None = None,
        **settings: Any,
    ) -> Client:
        """Starts one more instance and returns a client of it; ``puller`` brings its models' data here."""
        number = next(self._names)
        channels = await self._stack.enter_async_context(Channels())
        driver: ModelRuntime | None = None
        if not router:
            runtime = runtime or ScriptedRuntime(self.socket())
            await runtime.start()
            self._stack.push_async_callback(runtime.stop)
            self.runtimes.append(runtime)
            driver = SpiRuntime(RuntimeEndpoints(management=(runtime.address,)), opener=channels.open)
            if puller is not None:
                driver = PullingRuntime(driver, Puller(puller))
            self._stack.push_async_callback(driver.close)
        store: Store = open_store(self._kv_store) if self._kv_store else MemoryStore(self.registry)
        self._stack.push_async_callback(store.close)
        values: dict[str, Any] = {
            "instance_id": f"test-{number}",
            "service_name": "tests",
            "kv_store": "memory:",
            "host": "127.0.0.1",
            "port": 0,
            "peer_port": 0,
            "probe_port": None,
            "lifecycle": LifecycleSettings(prestop_port=None),
            "eviction": EvictionSettings(min_churn_age_ms=0),
            **settings,
        }
        instance = Instance(Settings(**values), store, driver, channels.open)
        self._stack.push_async_callback(instance.close)
        await instance.start()
        self.instances.append(instance)
        client = Client(instance.address)
        self._stack.push_async_callback(client.channel.close)
        self.clients.append(client)
        return client

    def socket(self) -> Path:
        """A path for one more model server."""
        return self._folder / f"runtime-{next(self._names)}.sock"

    async def settle(self) -> None:
        """Lets records and routes reach every instance."""
        for _ in range(200):
            if all(len(list(instance.parts.peers)) == len(self.instances) - 1 for instance in self.instances):
                break
            await asyncio.sleep(0.02)

    def loads(self, model_id: str) -> int:
        """How often a model was loaded, everywhere together."""
        return sum(runtime.loads[model_id] for runtime in self.runtimes)


async def eventually(check: Any, timeout_s: float = 10.0) -> None:
    """Waits until ``check`` (plain or async) returns true."""
    async with asyncio.timeout(timeout_s):
        while True:
            result = check()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.02)
