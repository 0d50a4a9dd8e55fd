"""What processes as users run them look after, over a real etcd."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mesh.registry import Keys, ModelRecord, Registry, open_store
from tests.instance.meshes import eventually
from tests.instance.processes import InstanceProcess
from tests.servers.etcd import EtcdServer


@pytest.fixture
def process(etcd: EtcdServer, tmp_path: Path) -> Iterator[InstanceProcess]:
    with ExitStack() as stack:
        started = InstanceProcess(
            etcd.kv_store,
            tmp_path,
            MESH_EVICTION_POLICY="cost-aware",
            MESH_JANITOR_INTERVAL_S="1",
            MESH_REAPER_DELAY_S="1",
            MESH_REAPER_INTERVAL_S="1",
            MESH_DEAD_INSTANCE_AGE_S="1",
        )
        stack.callback(started.stop)
        started.start()
        started.wait_until_ready()
        yield started


async def test_dead_instances_are_forgotten_and_free_memory_gets_models(
    etcd: EtcdServer, process: InstanceProcess
) -> None:
    client = process.client()
    store = open_store(etcd.kv_store)
    registry = Registry(store, Keys("tests"), "observer")
    await registry.start(20)
    try:
        await client.register("m")

        def listed_where_nobody_is(record: ModelRecord | None) -> ModelRecord | None:
            assert record is not None
            return record.with_copy("dead", 1).with_failure("dead-too", 1, "no luck")

        await registry.models.update("m", listed_where_nobody_is)
        await eventually(lambda: set(registry.models["m"].copies) == {process.instance_id}, timeout_s=30)
        assert not registry.models["m"].failures
        told = [decision.summary for decision in await client.explain("m") if decision.kind == "preload"]
        assert "into memory that nobody uses" in told[0]
    finally:
        await registry.close()
        await store.close()
        await client.channel.close()
