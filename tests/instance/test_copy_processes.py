"""Numbers of copies, kept by processes as users run them over a real etcd."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.instance.meshes import Client, eventually
from tests.instance.processes import InstanceProcess
from tests.instance.test_copies import load
from tests.servers.etcd import EtcdServer


@pytest.fixture
def trio(etcd: EtcdServer, tmp_path: Path) -> Iterator[list[InstanceProcess]]:
    with ExitStack() as stack:
        instances = [
            InstanceProcess(
                etcd.kv_store,
                tmp_path,
                MM_SCALEUP_RPM_THRESHOLD="900",
                MESH_RATE_CHECK_MS="600000",
                MESH_REBALANCE="false",
            )
            for _ in range(3)
        ]
        for instance in instances:
            stack.callback(instance.stop)
            instance.start()
        for instance in instances:
            instance.wait_until_ready()
        yield instances


def mesh(instance: InstanceProcess, *arguments: str) -> Any:
    """What a ``mesh`` command prints as JSON."""
    code = "from mesh.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments, "--address", f"127.0.0.1:{instance.port}", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def scrape(instance: InstanceProcess) -> str:
    with urlopen(f"http://127.0.0.1:{instance.metrics_port}/metrics", timeout=10) as reply:
        return str(reply.read(), "utf-8")


async def holders(client: Client, model_id: str) -> list[str]:
    return [copy.instance_id for copy in (await client.describe(model_id)).copies]


async def has_copies(client: Client, model_id: str, count: int) -> bool:
    model = await client.describe(model_id)
    return len(model.copies) == count == sum(copy.size_bytes > 0 for copy in model.copies)


async def test_policies_hold_while_instances_leave_and_load_comes(trio: list[InstanceProcess]) -> None:
    client = trio[0].client()
    await client.register("m")
    told = await asyncio.to_thread(mesh, trio[1], "policy", "m", "--min-copies", "2", "--max-copies", "2")
    assert (told["min_copies"], told["max_copies"], told["pinned"]) == (2, 2, False)
    await eventually(lambda: has_copies(client, "m", 2))
    async with load(client, "m", rpm=3_000) as errors:
        await asyncio.sleep(1.5)
        assert await has_copies(client, "m", 2), "no more than it may have"
        having = await holders(client, "m")
        leaving = next(instance for instance in trio[1:] if instance.instance_id in having)
        await asyncio.to_thread(leaving.mesh.stop, 30)
        await eventually(lambda: has_copies(client, "m", 2), timeout_s=20)
        assert leaving.instance_id not in await holders(client, "m")
    assert errors == []


async def test_load_is_spread_over_more_copies_as_metrics_and_explanations_tell(
    trio: list[InstanceProcess],
) -> None:
    client = trio[0].client()
    await client.register("m", load=True, sync=True)
    async with load(client, "m", rpm=4_000) as errors:
        await eventually(lambda: has_copies(client, "m", 3))
    assert errors == []
    decisions = (await asyncio.to_thread(mesh, trio[2], "explain", "m"))["decisions"]
    summary = next(one["summary"] for one in decisions if one["kind"] == "scale_up")
    assert "where one copy is to take 900" in summary
    shown = "".join([await asyncio.to_thread(scrape, instance) for instance in trio])
    assert 'modelmesh_copies_added{reason="rate"}' in shown
    assert "modelmesh_busiest_copy_load_percent" in shown
    assert "modelmesh_copies_missing 0.0" in shown
