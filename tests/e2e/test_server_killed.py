"""Promises about a model server that dies under load."""

import asyncio
from collections.abc import Sequence

import pytest
from tritonclient.utils import InferenceServerException

from tests.adapters.samples import XGBOOST
from tests.e2e.pods import Pod, Storage
from tests.e2e.users import User, eventually

pytestmark = pytest.mark.timeout(300)

MODELS = [f"kept-{number}" for number in range(6)]


class Load:
    """Clients that ask all models in turn, through every pod, until told to stop."""

    def __init__(self, users: Sequence[User]) -> None:
        self.failures: list[str] = []
        self.rounds = 0
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask(user)) for user in users for _ in range(2)]

    async def _ask(self, user: User) -> None:
        while not self._stop.is_set():
            for model in MODELS:
                try:
                    await user.ask(XGBOOST, model)
                except InferenceServerException as error:
                    self.failures.append(f"{model}: {error}")
            self.rounds += 1

    async def go_on(self, rounds: int = 8) -> None:
        """Waits until so many more rounds were made."""
        enough = self.rounds + rounds
        await eventually(lambda: self.rounds >= enough)

    async def end(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


async def test_killing_mlserver_fails_no_request_and_the_models_come_back(
    mlserver_mesh: list[Pod], storage: Storage
) -> None:
    victim, survivor = mlserver_mesh
    async with User(victim) as one, User(survivor) as other:
        for model in MODELS:
            await one.register(model, XGBOOST.format, storage.put(XGBOOST, model))
            await one.ask(XGBOOST, model)
        # Both servers have some of them.
        assert all(pod.repository.ready_models() & set(MODELS) for pod in mlserver_mesh)
        load = Load([one, other])
        await load.go_on()
        victim.repository.process.kill()
        await load.go_on()
        assert set(MODELS) <= survivor.repository.ready_models()
        victim.repository.process.start()

        async def returned() -> bool:
            return all(instance.capacity_bytes for instance in await one.instances())

        await eventually(returned)
        await load.go_on()
        await load.end()
        assert load.failures == []
        assert (await one.instances())[0].capacity_bytes
        # The server that is back takes models again.
        survivor.repository.process.kill()
        for model in MODELS:
            await one.ask(XGBOOST, model)
        assert set(MODELS) <= victim.repository.ready_models()
        survivor.repository.process.start()
        await eventually(returned)
        for user in (one, other):
            await user.ask(XGBOOST, MODELS[0])
