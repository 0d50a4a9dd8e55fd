"""Vmodels over several processes and a real etcd."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mesh.protos import admin_pb2
from mesh.protos import model_mesh_pb2 as api
from tests.instance.meshes import Client, eventually
from tests.instance.processes import InstanceProcess
from tests.servers.etcd import EtcdServer

INFO = api.ModelInfo(type="test")


@pytest.fixture
def instances(etcd: EtcdServer, tmp_path: Path) -> Iterator[list[InstanceProcess]]:
    with ExitStack() as stack:
        made = [
            InstanceProcess(etcd.kv_store, tmp_path, SCRIPTED_LOAD_DELAY_S="1", MM_DEFAULT_VMODEL_OWNER="us")
            for _ in range(3)
        ]
        for instance in made:
            stack.callback(instance.stop)
            instance.start()
        for instance in made:
            instance.wait_until_ready()
        yield made


async def test_a_vmodel_moves_while_its_leader_goes_and_no_request_fails(
    instances: list[InstanceProcess],
) -> None:
    clients = {instance.instance_id: instance.client() for instance in instances}
    admin = next(iter(clients.values())).admin

    async def known_leader() -> str:
        return str((await admin.ListInstances(admin_pb2.ListInstancesRequest(), timeout=10)).leader)

    # An instance is ready without one.
    await eventually(known_leader, 20)
    leader_id = await known_leader()
    leader = next(instance for instance in instances if instance.instance_id == leader_id)
    others = [client for instance_id, client in clients.items() if instance_id != leader_id]
    await others[0].set_vmodel("v", "old", info=INFO, autoDeleteTargetModel=True, loadNow=True, sync=True)
    stop = asyncio.Event()
    answers: set[bytes] = set()

    async def ask(client: Client) -> None:
        while not stop.is_set():
            answers.add(await client.infer_vmodel("v"))

    asking = [asyncio.create_task(ask(client)) for client in others]
    await others[0].set_vmodel("v", "new", info=INFO)
    leaving = asyncio.create_task(asyncio.to_thread(leader.mesh.stop, 40))

    async def moved() -> bool:
        status = await others[1].vmodel_status("v")
        return status.status == api.VModelStatusInfo.DEFINED and status.activeModelId == "new"

    await eventually(moved, 40)
    for client in others:
        await eventually(lambda client=client: _is(client, b"new:x"))
    stop.set()
    await asyncio.gather(*asking)
    assert answers == {b"old:x", b"new:x"}
    status = await others[0].vmodel_status("v", owner="us")
    assert status.activeModelStatus.status == api.ModelStatusInfo.LOADED
    assert (await others[0].status("old")).status == api.ModelStatusInfo.NOT_FOUND, (
        "it went with its last reference"
    )
    await others[1].delete_vmodel("v")
    await others[0].unregister("new")
    await leaving
    for client in clients.values():
        await client.channel.close()


async def _is(client: Client, answer: bytes) -> bool:
    return await client.infer_vmodel("v") == answer
