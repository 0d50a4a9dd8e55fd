"""A pull that takes long can be seen."""

import asyncio
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from mesh.cli.screen import console
from mesh.cli.views.models import model_status
from mesh.instance import MetricsSettings, UpkeepSettings
from mesh.puller import PullerSettings
from tests.instance.meshes import Mesh, eventually
from tests.puller.faulty_s3 import FaultyS3
from tests.puller.test_s3_faults import SECRET, key_for


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


async def test_data_that_changed_in_storage_is_told_of_and_changes_nothing(
    mesh: Mesh, store: FaultyS3, tmp_path: Path, unused_tcp_port: int
) -> None:
    store.objects = {"m/weights": b"old", "same/weights": b"same"}
    client = await mesh.add(
        puller=PullerSettings(root=tmp_path / "models"),
        metrics=MetricsSettings(port=unused_tcp_port),
        upkeep=UpkeepSettings(source_interval_s=1),
    )
    for model in ("m", "same"):
        await client.register(model, path=model, key=key_for(store))
        assert await client.infer(model)

    async def told(of: str) -> list[str]:
        return [decision.summary for decision in await client.explain(of) if decision.kind == "source"]

    async def shown() -> str:
        url = f"http://127.0.0.1:{unused_tcp_port}/metrics"
        return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())

    assert "modelmesh_instance_changed_models 0.0" in await shown()
    store.objects["m/weights"] = b"new"

    async def found(change: str) -> bool:
        return any(change in summary for summary in await told("m"))

    await eventually(lambda: found("other data is there now"))
    assert "modelmesh_instance_changed_models 1.0" in await shown()
    assert (tmp_path / "models" / "m" / "m" / "weights").read_bytes() == b"old"
    assert await client.infer("m")
    # It is told of once, and so is the next change.
    del store.objects["m/weights"]
    await eventually(lambda: found("there is no object 'm'"))
    assert len(await told("m")) == 2
    assert await told("same") == []
    # Registered anew it is another load.
    store.objects["m/weights"] = b"new"
    await client.unregister("m")
    await client.register("m", path="m", key=key_for(store))
    assert await client.infer("m")

    async def settled() -> bool:
        return "modelmesh_instance_changed_models 0.0" in await shown()

    await eventually(settled)
    assert (tmp_path / "models" / "m" / "m" / "weights").read_bytes() == b"new"


async def test_no_secret_of_a_storage_is_told_by_the_mesh(
    mesh: Mesh, store: FaultyS3, tmp_path: Path, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The store repeats in its answers what was signed, and refuses."""
    caplog.set_level("DEBUG")
    store.objects = {"good/a": b"1", "bad/a": b"2"}
    store.faults["bad/a"] = ["code:403:SignatureDoesNotMatch"] * 100
    client = await mesh.add(
        puller=PullerSettings(root=tmp_path / "models"), metrics=MetricsSettings(port=unused_tcp_port)
    )
    told = ""
    for model in ("good", "bad"):
        await client.register(model, path=model, key=key_for(store))
        try:
            await client.infer(model)
        except grpc.aio.AioRpcError as error:
            told += str(error)
        told += f"{await client.explain(model)}{await client.describe(model)}"
    assert "SignatureDoesNotMatch" in told
    url = f"http://127.0.0.1:{unused_tcp_port}/metrics"
    told += await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    told += caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert SECRET not in told
    assert "AWS4-HMAC" not in told
