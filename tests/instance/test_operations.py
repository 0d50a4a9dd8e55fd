"""Promises to those who run a mesh: instances that die, leave or start while etcd is away, under steady load."""

import asyncio
import contextlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from mesh.protos import model_mesh_pb2 as api
from mesh.protos import peer_pb2, peer_pb2_grpc
from tests.instance.meshes import eventually
from tests.instance.processes import InstanceProcess
from tests.instance.test_processes import Load
from tests.servers.etcd import EtcdServer

Status = api.ModelStatusInfo
_KEYS = "/tas-runtime/tests/"

#: How long etcd is away, seconds; two minutes with `MESH_TEST_AWAY_S=120 ./test tests/instance/test_operations.py`.
AWAY_S = float(os.environ.get("MESH_TEST_AWAY_S", "3"))


#: Copies stay where they are, whatever load there is.
STILL = {"MM_SCALEUP_RPM_THRESHOLD": "1000000000", "MESH_SCALEUP_IN_FLIGHT": "0", "MESH_REBALANCE": "false"}


class Pods:
    """Starts instances, and stops what is left of them."""

    def __init__(self, etcd: EtcdServer, folder: Path, stack: ExitStack) -> None:
        self.etcd = etcd
        self._folder = folder
        self._stack = stack

    def make(self, **environment: str) -> InstanceProcess:
        instance = InstanceProcess(self.etcd.kv_store, self._folder, **environment)
        self._stack.callback(instance.stop)
        return instance

    def started(self, count: int, **environment: str) -> list[InstanceProcess]:
        instances = [self.make(**environment) for _ in range(count)]
        for instance in instances:
            instance.start()
        for instance in instances:
            instance.wait_until_ready()
        return instances


@pytest.fixture
def pods(etcd: EtcdServer, tmp_path: Path) -> Iterator[Pods]:
    with ExitStack() as stack:
        yield Pods(etcd, tmp_path, stack)


def _copies(etcd: EtcdServer, model_id: str) -> set[str]:
    return set(json.loads(etcd.get(f"{_KEYS}registry/{model_id}")).get("instanceIds", {}))


async def _load_at(instance: InstanceProcess, model_id: str, beside: list[str]) -> None:
    """Has an instance load a model beside the copies that there are."""
    async with grpc.aio.insecure_channel(instance.peer_address) as channel:
        peer: peer_pb2_grpc.PeerStub = peer_pb2_grpc.PeerStub(channel)
        request = peer_pb2.LoadRequest(
            model_id=model_id, last_used_ms=time.time_ns() // 1_000_000, wait=True, beside=beside
        )
        reply = await peer.Load(request, timeout=20)
        assert reply.state == peer_pb2.COPY_STATE_LOADED, reply.message


def _ready(instance: InstanceProcess) -> str:
    """What ``/ready`` says; empty for 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{instance.probe_port}/ready", timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        return error.read().decode()


async def test_killing_an_instance_fails_no_request_where_models_have_two_copies(pods: Pods) -> None:
    instances = pods.started(3)
    clients = [instance.client() for instance in instances]
    models = [f"model-{number}" for number in range(6)]
    for model in models:
        await clients[0].register(model, load=True, sync=True)
        (holder,) = _copies(pods.etcd, model)
        others = [instance for instance in instances if instance.instance_id != holder]
        await _load_at(others[int(model[-1]) % 2], model, [holder])
    load = Load(clients[:2], models)
    await asyncio.sleep(0.5)
    served = load.served
    instances[2].mesh.kill()
    instances[2].runtime.kill()
    await eventually(lambda: load.served > served + 500, 60)
    await load.end()
    assert load.failures == []


@pytest.mark.timeout(120 + 2 * AWAY_S)
async def test_warm_requests_do_not_notice_that_etcd_is_stopped_and_all_converges_after(pods: Pods) -> None:
    etcd = pods.etcd
    instances = pods.started(3)
    clients = [instance.client() for instance in instances]
    models = [f"model-{number}" for number in range(6)]
    for model in models:
        await clients[0].register(model, load=True, sync=True)
    for client in clients:
        for model in models:
            await client.infer(model)
    load = Load(clients, models)
    await asyncio.to_thread(etcd.kill)
    await asyncio.sleep(AWAY_S)
    assert [_ready(instance) for instance in instances] == ["", "", ""]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await clients[0].register("while-away")
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.to_thread(etcd.restart)

    async def converged() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            for number, client in enumerate(clients):
                await client.register(f"after-{number}", load=True, sync=True)
            statuses = [await client.status(f"after-{n}") for client in clients for n in range(3)]
            present = all(_present(etcd, instance) for instance in instances)
            return present and all(status.status == Status.LOADED for status in statuses)
        return False

    await eventually(converged, 10)
    await load.end()
    assert load.failures == []


def _present(etcd: EtcdServer, instance: InstanceProcess) -> bool:
    try:
        return bool(etcd.get(f"{_KEYS}instances/{instance.instance_id}"))
    except KeyError:
        return False


async def test_an_instance_starts_and_serves_while_etcd_is_away(pods: Pods) -> None:
    etcd = pods.etcd
    snapshots = {"MESH_SNAPSHOT_INTERVAL_MS": "200", "MESH_SNAPSHOT_AFTER_MS": "500", **STILL}
    stayer = pods.make(MESH_SNAPSHOT_PATH="", **snapshots)
    folder = stayer.folder.parent
    goer = pods.make(MESH_SNAPSHOT_PATH=str(folder / "snapshot"), **snapshots)
    for instance in (stayer, goer):
        instance.start()
    for instance in (stayer, goer):
        instance.wait_until_ready()
    client = stayer.client()
    models = [f"model-{number}" for number in range(8)]
    for model in models:
        await client.register(model, load=True, sync=True)
    await client.register("cold")
    at_goer = {model for model in models if goer.instance_id in _copies(etcd, model)}
    assert at_goer
    assert at_goer != set(models)
    snapshot = folder / "snapshot"
    await eventually(lambda: snapshot.exists() and b"cold" in snapshot.read_bytes(), 20)
    await asyncio.sleep(0.5)

    load = Load([client], sorted(set(models) - at_goer))
    await asyncio.to_thread(etcd.kill)
    for process in (goer.mesh, goer.runtime):
        process.kill()
    (goer.folder / "runtime.sock").unlink(missing_ok=True)
    goer.start()
    goer.wait_until_ready()
    returned = goer.client()
    # What it had, what a peer has, and what nobody had.
    for model in [*models, "cold"]:
        assert await returned.infer(model) == f"{model}:x".encode()
    for model in models:
        assert await client.infer(model) == f"{model}:x".encode(), "the peer still sends what was here"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await returned.infer("unheard-of")
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE

    await asyncio.to_thread(etcd.restart)
    await eventually(lambda: goer.instance_id in _copies(etcd, "cold"), 60)
    await eventually(lambda: at_goer == {m for m in models if goer.instance_id in _copies(etcd, m)}, 30)
    await returned.register("afterwards", load=True, sync=True)
    assert await client.infer("afterwards") == b"afterwards:x"
    await load.end()
    assert load.failures == []


async def test_a_pod_that_is_replaced_fails_no_request_though_each_model_has_one_copy(pods: Pods) -> None:
    leaver, stayer = pods.started(2, SCRIPTED_LOAD_DELAY_S="1.5")
    client = stayer.client()
    models = [f"model-{number}" for number in range(8)]
    for model in models:
        await client.register(model, load=True)
    for model in models:
        await client.ensure_loaded(model)
    handed_over = {model for model in models if leaver.instance_id in _copies(pods.etcd, model)}
    assert handed_over
    load = Load([client, leaver.client()], models)
    # The model server's container is kept by its preStop hook until the instance has left.
    hooks = [
        asyncio.create_task(asyncio.to_thread(_get, f"http://127.0.0.1:{leaver.prestop_port}/prestop"))
        for _ in range(3)
    ]
    await asyncio.sleep(0.3)
    status = asyncio.create_task(asyncio.to_thread(leaver.mesh.stop, 60.0))
    newcomer = pods.make()
    newcomer.start()
    told: set[str] = set()

    def is_ready() -> bool:
        with contextlib.suppress(OSError):
            told.add(_ready(newcomer))
        return "" in told

    await eventually(is_ready, 60)
    assert _present(pods.etcd, leaver) is False, f"ready while another pod was leaving: {told}"
    assert await status == 0
    assert [await hook for hook in hooks] == [200, 200, 200]
    await load.end()
    # Who still asks the one that left cannot connect; nothing else may fail.
    assert [failure for failure in load.failures if "failed to connect" not in failure] == []
    for model in handed_over:
        assert leaver.instance_id not in _copies(pods.etcd, model)
        assert _copies(pods.etcd, model)


def _get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=90) as reply:
        return int(reply.status)
