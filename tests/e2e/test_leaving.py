"""Promises about pods that lose their model server, or leave, under load."""

import asyncio
from collections.abc import Sequence

import pytest
from tritonclient.utils import InferenceServerException

from tests.adapters.samples import XGBOOST
from tests.e2e.pods import Pod, Storage
from tests.e2e.users import CALL_S, User, eventually

pytestmark = pytest.mark.timeout(300)


async def spread(user: User, mesh: list[Pod], storage: Storage) -> list[str]:
    """Registers models and asks them until each server has two; returns them all."""
    models: list[str] = []
    while any(len(pod.repository.ready_models() & set(models)) < 2 for pod in mesh):
        model = f"kept-{len(models)}"
        await user.register(model, XGBOOST.format, storage.put(XGBOOST, model))
        await user.ask(XGBOOST, model)
        models.append(model)
    return models


class Load:
    """Clients that ask all models in turn until told to stop."""

    def __init__(self, users: Sequence[User], models: Sequence[str]) -> None:
        self.failures: list[str] = []
        self.rounds = 0
        self._models = models
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask(user)) for user in users for _ in range(2)]

    async def _ask(self, user: User) -> None:
        while not self._stop.is_set():
            for model in self._models:
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
        models = await spread(one, mlserver_mesh, storage)
        load = Load([one, other], models)
        await load.go_on()
        victim.repository.process.kill()
        await load.go_on()
        assert set(models) <= survivor.repository.ready_models()
        await _start_again(victim, one)
        await load.go_on()
        await load.end()
        assert load.failures == []
        # The server that is back takes models again.
        survivor.repository.process.kill()
        for model in models:
            await one.ask(XGBOOST, model)
        assert set(models) <= victim.repository.ready_models()
        await _start_again(survivor, one)
        for user in (one, other):
            await user.ask(XGBOOST, models[0])


async def _start_again(pod: Pod, user: User) -> None:
    await asyncio.to_thread(pod.repository.server.start)

    async def takes_models() -> bool:
        return all(instance.capacity_bytes for instance in await user.instances())

    await eventually(takes_models)


async def test_an_instance_that_is_told_to_stop_fails_no_request_and_starts_again(
    mlserver_mesh: list[Pod], storage: Storage
) -> None:
    leaver, stayer = mlserver_mesh
    async with User(stayer) as user:
        models = await spread(user, mlserver_mesh, storage)
        load = Load([user], models)
        await load.go_on()
        assert await asyncio.to_thread(leaver.instance.mesh.stop, CALL_S) == 0
        await load.go_on()
        # MLServer still has the models of the instance that left; the one that comes starts with none.
        leaver.instance.mesh.start()
        await asyncio.to_thread(leaver.wait_until_ready)
        assert not leaver.repository.ready_models() | leaver.pulled()
        await load.go_on()
        await load.end()
        assert load.failures == []
        async with User(leaver) as returned:
            for model in models:
                await returned.ask(XGBOOST, model)
