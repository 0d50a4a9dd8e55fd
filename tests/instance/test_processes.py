"""Promises about processes that die, leave and come back, kept over a real etcd."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from mesh.protos import admin_pb2
from mesh.protos import model_mesh_pb2 as api
from tests.instance.meshes import Client, eventually
from tests.instance.processes import InstanceProcess
from tests.servers.etcd import EtcdServer

Status = api.ModelStatusInfo


class Load:
    """Clients that ask all models in turn until told to stop, and what went wrong."""

    def __init__(self, clients: list[Client], models: list[str]) -> None:
        self.failures: list[str] = []
        self.served = 0
        self._models = models
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask(client)) for client in clients for _ in range(4)]

    async def _ask(self, client: Client) -> None:
        while not self._stop.is_set():
            for model in self._models:
                try:
                    assert await client.infer(model) == f"{model}:x".encode()
                    self.served += 1
                except grpc.aio.AioRpcError as error:
                    self.failures.append(f"{model}: {error.code().name}: {error.details()}")

    async def end(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


@pytest.fixture
def trio(etcd: EtcdServer, tmp_path: Path) -> Iterator[list[InstanceProcess]]:
    with ExitStack() as stack:
        instances = [InstanceProcess(etcd.kv_store, tmp_path) for _ in range(3)]
        for instance in instances:
            stack.callback(instance.stop)
            instance.start()
        for instance in instances:
            instance.wait_until_ready()
        yield instances


async def _prepare(instances: list[InstanceProcess], count: int) -> tuple[list[Client], list[str]]:
    clients = [instance.client() for instance in instances]
    models = [f"model-{number}" for number in range(count)]
    for model in models:
        await clients[0].register(model)
    for client in clients:
        for model in models:
            await client.infer(model)
    return clients, models


async def test_killing_an_instance_fails_no_request_of_the_others(trio: list[InstanceProcess]) -> None:
    clients, models = await _prepare(trio, 12)
    load = Load(clients[:2], models)
    await asyncio.sleep(0.5)
    trio[2].mesh.kill()
    trio[2].runtime.kill()
    await asyncio.sleep(3)
    await load.end()
    assert load.failures == []
    assert load.served > 100


async def test_killing_a_model_server_fails_no_request(trio: list[InstanceProcess]) -> None:
    clients, models = await _prepare(trio, 12)
    load = Load(clients, models)
    await asyncio.sleep(0.5)
    trio[2].runtime.kill()
    await asyncio.sleep(1.5)
    (trio[2].folder / "runtime.sock").unlink(missing_ok=True)
    trio[2].runtime.start()
    await asyncio.sleep(1.5)
    await load.end()
    assert load.failures == []

    async def back() -> bool:
        reply = await clients[0].admin.ListInstances(admin_pb2.ListInstancesRequest())
        return all(instance.capacity_bytes for instance in reply.instances)

    await eventually(back)


async def test_sigterm_fails_no_request_though_each_model_has_one_copy(trio: list[InstanceProcess]) -> None:
    clients, models = await _prepare(trio, 12)
    load = Load(clients[:2], models)
    await asyncio.sleep(0.5)
    status = await asyncio.to_thread(trio[2].mesh.stop, 30.0)
    await asyncio.sleep(0.5)
    await load.end()
    assert status == 0
    assert load.failures == []


async def test_a_registry_of_modelmesh_is_picked_up(etcd: EtcdServer, tmp_path: Path) -> None:
    key = "/tas-runtime/tests/registry/"
    record = {
        "type": "test",
        "mPath": "some/path",
        "encKey": "{}",
        "lu": 1_700_000_000_000,
        "future": {"a": 1},
    }
    etcd.put(f"{key}old", json.dumps(record))
    etcd.put(f"{key}dead-copy", json.dumps({**record, "instanceIds": {"gone-12345": 1_700_000_000_000}}))
    instance = InstanceProcess(etcd.kv_store, tmp_path)
    try:
        instance.start()
        instance.wait_until_ready()
        client = instance.client()
        assert (await client.status("old")).status == Status.NOT_LOADED
        assert await client.infer("old") == b"old:x"
        assert await client.infer("dead-copy") == b"dead-copy:x"
        stored = json.loads(etcd.get(f"{key}old"))
        assert stored["future"] == {"a": 1}
        assert stored["mPath"] == "some/path"
        assert list(stored["instanceIds"]) == [instance.instance_id]
    finally:
        instance.stop()


async def test_an_instance_that_cannot_start_says_why(etcd: EtcdServer, tmp_path: Path) -> None:
    instance = InstanceProcess(etcd.kv_store, tmp_path, MM_SVC_GRPC_PORT="eighty")
    try:
        instance.mesh.start()
        await eventually(lambda: not instance.mesh.running)
        assert "MM_SVC_GRPC_PORT='eighty'" in instance.mesh.log_tail()
        assert "MM_SVC_GRPC_PORT='eighty'" in (instance.folder / "termination-log").read_text()
    finally:
        instance.stop()


async def test_an_instance_of_a_disabled_mesh_says_so_where_kubernetes_looks(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    etcd.put("/tas-runtime/tests/config/disable", "true")
    instance = InstanceProcess(etcd.kv_store, tmp_path)
    try:
        instance.start()
        await eventually(lambda: not instance.mesh.running, 30)
        told = (instance.folder / "termination-log").read_text()
        assert "config key disable of mesh tests is set" in told
        assert "Traceback" not in instance.mesh.log_tail()
    finally:
        instance.stop()
