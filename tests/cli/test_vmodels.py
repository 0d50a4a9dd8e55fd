"""``mesh vmodels`` against a mesh of real instances."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from mesh.cli import main
from tests.instance.meshes import Client, Mesh, eventually


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path) as made:
        yield made


async def _run(client: Client, *arguments: str, fails: bool = False) -> str:
    """Runs the command in a thread, since it runs an event loop of its own."""
    address = client.address
    result = await asyncio.to_thread(CliRunner().invoke, main, ["vmodels", *arguments, "--address", address])
    assert (result.exit_code != 0) is fails, result.output
    return result.output


async def test_a_vmodel_from_its_making_to_its_end(mesh: Mesh) -> None:
    client = await mesh.add()
    assert "No vmodels." in await _run(client)
    made = await _run(client, "set", "digits", "digits-1", "--type", "test", "--load", "--owner", "us")
    assert "digits  steady" in made
    assert "digits-1  loaded" in made
    moved = json.loads(await _run(client, "set", "digits", "digits-2", "--type", "test", "--json"))
    assert (moved["status"], moved["active"]["model_id"], moved["target"]) == ("DEFINED", "digits-2", None)

    mesh.runtimes[0].refuse["digits-3"] = (grpc.StatusCode.INVALID_ARGUMENT, "no digits in it")
    failed = await _run(client, "set", "digits", "digits-3", "--type", "test", fails=True)
    assert "digits stays with digits-2: digits-3 could not be loaded: " in failed
    assert "no digits in it" in failed
    listed = await _run(client, "--owner", "us")
    assert "cannot move" in listed
    assert "digits-2  loaded" in await _run(client, "status", "digits")

    wrong = await _run(client, "set", "digits", "digits-1", "--expect", "digits-7", fails=True)
    assert "Existing target model digits-3 does not match expected digits-7" in wrong
    await _run(client, "delete", "digits")
    gone = await _run(client, "status", "digits", fails=True)
    assert "there is no vmodel 'digits'" in gone


async def test_a_vmodel_is_asked_the_sample_of_its_active_model(mesh: Mesh, tmp_path: Path) -> None:
    client = await mesh.add()
    (tmp_path / "sample.json").write_text(
        json.dumps({"samples": [{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [5]}]}]})
    )
    await _run(client, "set", "digits", "digits-1", "--type", "test", "--path", str(tmp_path / "model"))
    arguments = ["infer", "digits", "--vmodel", "--address", client.address]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    # The model server of this test speaks no protocol of its own: what it gives back begins with the model that it is.
    assert "there is no vmodel" not in result.output
    assert "sample" not in result.output
    assert mesh.runtimes[0].calls["digits-1"] == 1
    result = await asyncio.to_thread(CliRunner().invoke, main, ["infer", "nobody", *arguments[2:]])
    assert "there is no vmodel 'nobody'" in result.output


async def test_models_on_trial(mesh: Mesh) -> None:
    client = await mesh.add()
    await _run(client, "set", "digits", "old", "--type", "test", "--load")
    await client.register("new")
    assert "new 25%" in await _run(client, "canary", "digits", "new", "25%")
    shared = json.loads(await _run(client, "shadow", "digits", "new", "1", "--json"))
    assert shared["canary"] == {"model_id": "new", "share": 0.25}
    assert shared["shadow"] == {"model_id": "new", "share": 1.0}
    assert json.loads(await _run(client, "canary", "digits", "--off", "--json"))["canary"] is None

    for _ in range(5):
        assert await client.infer_vmodel("digits") == b"old:x"

    async def compared() -> bool:
        report = json.loads(await _run(client, "compare", "digits", "--json"))
        return bool(report["different"] == 5)

    await eventually(compared)
    report = await _run(client, "compare", "digits")
    assert "digits  with its shadow  new" in report
    assert "5  differ, 100%" in report
    await _run(client, "shadow", "digits", "--off")
    assert "has no shadow" in await _run(client, "compare", "digits", fails=True)
    assert "5  differ" in await _run(client, "compare", "digits", "--shadow", "new")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["canary", "v", "m", "200%"], "'200%' is no share of the requests: write 0.05 or 5%"),
        (["canary", "v", "m"], "name the MODEL and its SHARE of the requests"),
        (["shadow", "v", "m", "5%", "--off"], "leave MODEL and SHARE out"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["vmodels", *arguments])
    assert result.exit_code == 2
    assert message in result.output
