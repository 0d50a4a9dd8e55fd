"""Promises to who tries models on a laptop with ``mesh up``."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.adapters.samples import LIGHTGBM, ONNX, SVM, XGBOOST
from tests.cli.laptops import RunningLaptop, running_laptop
from tests.cli.test_plan import free_ports

pytestmark = pytest.mark.timeout(300)

SAMPLES = {"digits": SVM, "images": ONNX, "mushrooms": XGBOOST, "more-mushrooms": LIGHTGBM}


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLaptop]:
    folder = tmp_path_factory.mktemp("up")
    for name, sample in SAMPLES.items():
        file = sample.copy_to(folder / "models" / name)
        (file.parent / "mesh.json").write_text(json.dumps({"type": sample.format, "path": file.name}))
    arguments = ["--instances", "2", "--models", str(folder / "models"), "--state", str(folder / "s")]
    with running_laptop(folder / "laptop", free_ports(2), *arguments) as laptop:
        laptop.wait_for("The mesh is up")
        yield laptop


async def test_models_of_a_folder_answer_rightly_through_every_instance(laptop: RunningLaptop) -> None:
    for instance in range(2):
        for name, sample in SAMPLES.items():
            await sample.check(f"127.0.0.1:{laptop.port + instance}", name, mm_model_id=name)


async def test_clients_that_ask_while_a_model_server_dies_are_answered(laptop: RunningLaptop) -> None:
    stop = asyncio.Event()

    async def ask(instance: int) -> int:
        rounds = 0
        while not stop.is_set():
            for name, sample in SAMPLES.items():
                await sample.check(f"127.0.0.1:{laptop.port + instance}", name, mm_model_id=name)
            rounds += 1
        return rounds

    asking = [asyncio.create_task(ask(instance)) for instance in (0, 1, 0)]
    victim = laptop.model_servers()[0]
    victim.kill()
    await asyncio.to_thread(laptop.wait_for, "ended (signal SIGKILL); starting it again")
    while len(await asyncio.to_thread(laptop.model_servers)) < 2:
        await asyncio.sleep(0.05)
    stop.set()
    assert all(await asyncio.gather(*asking))
