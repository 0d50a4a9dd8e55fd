"""A pull that takes long can be seen."""

import asyncio
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.cli.screen import console
from mesh.cli.views.models import model_status
from mesh.instance import MetricsSettings
from mesh.puller import PullerSettings
from tests.instance.meshes import Mesh, eventually
from tests.puller.faulty_s3 import FaultyS3
from tests.puller.test_s3_faults import key_for


@pytest.fixture
def store() -> Iterator[FaultyS3]:
    with FaultyS3().running() as store:
        yield store


async def test_a_pull_under_way_shows_how_far_it_is(
    mesh: Mesh, store: FaultyS3, tmp_path: Path, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    store.objects = {"m/large": b"x" * 100_000, "m/slow": b"y" * 100}
    store.faults["m/slow"] = ["drip"]
    caplog.set_level("INFO", "mesh.puller")
    client = await mesh.add(
        puller=PullerSettings(root=tmp_path / "models", tell_every_s=0.2),
        metrics=MetricsSettings(port=unused_tcp_port),
    )
    await client.register("m", path="m", key=key_for(store))
    answer = asyncio.ensure_future(client.infer("m"))

    async def half_way() -> bool:
        copies = (await client.describe("m")).copies
        return bool(copies) and 100_000 <= copies[0].pulled_bytes < copies[0].to_pull_bytes == 100_100

    await eventually(half_way)
    model = await client.describe("m")
    screen = console()
    screen.width = 160
    with screen.capture() as shown:
        screen.print(model_status(model, 0))
    assert "99% of" in shown.get()
    url = f"http://127.0.0.1:{unused_tcp_port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    assert "modelmesh_instance_pulls 1.0" in text
    assert "modelmesh_instance_pull_bytes_left 0.0" not in text
    assert await answer
    assert (await client.describe("m")).copies[0].to_pull_bytes == 0
    assert any("pulling m:" in record.getMessage() for record in caplog.records)
