"""References of models stay those of the vmodels, whatever is overtaken, cut short or left unanswered."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from mesh.instance.errors import MeshError
from mesh.instance.vmodels.records import VModelRecords, vmodel_of
from mesh.placement.vmodels import (
    Attributes,
    CopyCount,
    Portion,
    Role,
    SetPortion,
    SetTarget,
    count_references,
    delete,
    park,
    set_portion,
    set_target,
    switch,
)
from mesh.registry import Keys, MemoryCluster, Registry
from tests.instance.meshes import eventually

NOW = 1_800_000_000_000
VMODELS, MODELS = ("v", "w", "x"), ("a", "b", "c", "d", "e")


class _Caller:
    """Somebody at an instance of his own, with what its mirrors have heard so far."""

    def __init__(self, registry: Registry, random: Random) -> None:
        self.registry = registry
        self.records = VModelRecords(registry)
        self.random = random

    async def call(self) -> None:
        random = self.random
        vmodel_id, model_id = random.choice(VMODELS), random.choice(MODELS)
        choose: Callable[[], CopyCount] = lambda: CopyCount(random.randint(0, 2), 2)  # noqa: E731
        kind = random.choices(
            ("set", "switch", "park", "delete", "share", "unregister"), (8, 4, 2, 2, 3, 2), k=1
        )[0]
        match kind:
            case "set":
                vmodel = self.records.get(vmodel_id)
                wanted = SetTarget(
                    vmodel_id,
                    model_id,
                    attributes=Attributes("test") if random.random() < 0.8 else None,
                    auto_delete=random.random() < 0.5,
                    force=random.random() < 0.3,
                    copies={model_id: choose()} | ({vmodel.active: choose()} if vmodel else {}),
                )
                await self.records.change(
                    vmodel_id, lambda now, models: set_target(wanted, now, models, NOW), models=(model_id,)
                )
            case "switch":
                await self.records.change(vmodel_id, lambda now, models: switch(now, model_id, models))
            case "park":
                await self.records.change(vmodel_id, lambda now, _: park(now, model_id))
            case "delete":
                await self.records.change(vmodel_id, delete)
            case "share":
                portion = Portion(model_id, 0.1) if random.random() < 0.7 else None
                trial = SetPortion(vmodel_id, random.choice(list(Role)), portion)
                await self.records.change(
                    vmodel_id, lambda now, models: set_portion(trial, now, models), models=(model_id,)
                )
            case _:
                await self.registry.models.update(
                    model_id, lambda record: record if record is not None and record.refs else None
                )


@pytest.mark.parametrize("seed", range(20))
async def test_no_reference_is_lost_or_left_over(seed: int) -> None:
    random = Random(seed)
    cluster = MemoryCluster()
    registries = [Registry(cluster.client(), Keys("tests"), f"i-{number}") for number in range(3)]
    for registry in registries:
        await registry.start(10)
    callers = [_Caller(registry, Random(random.random())) for registry in registries]

    async def calls(caller: _Caller) -> None:
        for _ in range(40):
            task = asyncio.create_task(caller.call())
            if caller.random.random() < 0.2:
                # Its process ends in the midst of it.
                for _ in range(caller.random.randint(1, 4)):
                    await asyncio.sleep(0)
                task.cancel()
            with suppress(asyncio.CancelledError, MeshError):
                await task

    async def trouble() -> None:
        for _ in range(40):
            cluster.lose_answers(random.randint(0, 2))
            await asyncio.sleep(0)
        cluster.lose_answers(0)

    await asyncio.gather(
        *(calls(caller) for caller in callers), *(calls(caller) for caller in callers), trouble()
    )
    registry = Registry(cluster.client(), Keys("tests"), "reader")
    await registry.start(10)
    registries.append(registry)

    def wrong() -> dict[str, tuple[int, int]]:
        counted = count_references(map(vmodel_of, registry.vmodels.values()))
        recorded = {model_id: record.refs for model_id, record in registry.models.items()}
        return {
            model_id: (counted[model_id], recorded.get(model_id, 0))
            for model_id in MODELS
            if counted[model_id] != recorded.get(model_id, 0)
        }

    # What was cut off may still have been on its way.
    await eventually(lambda: not wrong(), 5)
    assert all(record.refs for record in registry.models.values() if record.auto_delete)
    for one in registries:
        await one.close()
