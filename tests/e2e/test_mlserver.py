"""Promises to who serves scikit-learn, XGBoost and LightGBM models from S3 with MLServers."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from mesh.protos import model_mesh_pb2 as api
from tests.adapters.samples import LIGHTGBM, SVM, XGBOOST
from tests.e2e.pods import Pod, Storage
from tests.e2e.users import User, eventually, model_key

pytestmark = pytest.mark.timeout(300)

SAMPLES = {"svm": SVM, "xgboost": XGBOOST, "lightgbm": LIGHTGBM}


async def test_every_model_answers_rightly_through_either_instance(
    mlserver_mesh: list[Pod], storage: Storage
) -> None:
    async with User(mlserver_mesh[0]) as one, User(mlserver_mesh[1]) as other:
        for name, sample in SAMPLES.items():
            path = storage.put(sample, name)
            status = await one.register(name, sample.format, path, model_key(sample.format, bucket="models"))
            assert status.status == api.ModelStatusInfo.NOT_LOADED
        for name, sample in SAMPLES.items():
            await other.ask(sample, name)
            await one.ask(sample, name)
            assert (await other.status(name)).status == api.ModelStatusInfo.LOADED
            assert len(await one.places(name)) == 1
    await _empty(mlserver_mesh)


async def test_the_least_recently_used_leave_and_come_back(
    mlserver_mesh: list[Pod], storage: Storage
) -> None:
    models = [f"lru-{number}" for number in range(9)]
    # By server, the models that were ever on it, in the order of their use.
    used: list[list[str]] = [[], []]
    async with AsyncExitStack() as stack:
        users = [await stack.enter_async_context(User(pod)) for pod in mlserver_mesh]
        for model in models:
            await users[0].register(model, SVM.format, storage.put(SVM, model))
        for number, model in enumerate(models):
            await users[number % 2].ask(SVM, model)
            [server] = [at for at, pod in enumerate(mlserver_mesh) if model in pod.repository.ready_models()]
            used[server].append(model)

        async def only_the_latest_are_left() -> bool:
            kept = [pod.repository.ready_models() for pod in mlserver_mesh]
            return all(len(there) <= 3 for there in kept) and all(
                there == set(order[len(order) - len(there) :])
                for there, order in zip(kept, used, strict=True)
            )

        await eventually(only_the_latest_are_left)
        kept = [pod.repository.ready_models() for pod in mlserver_mesh]
        assert all(kept)
        assert models[0] not in kept[0] | kept[1]
        assert models[-1] in kept[0] | kept[1]
        # No data is left of those that went.
        await eventually(lambda: [pod.pulled() for pod in mlserver_mesh] == kept)
        for model in models[:2]:
            assert (await users[0].status(model)).status == api.ModelStatusInfo.NOT_LOADED
            await users[1].ask(SVM, model)
            await users[0].ask(SVM, model)
            assert any(model in pod.repository.ready_models() for pod in mlserver_mesh)
    await _empty(mlserver_mesh)


async def test_requests_for_more_models_than_fit_are_all_answered(
    mlserver_mesh: list[Pod], storage: Storage
) -> None:
    models = [f"many-{number}" for number in range(8)]
    async with User(mlserver_mesh[0]) as one, User(mlserver_mesh[1]) as other:
        for model in models:
            await one.register(model, SVM.format, storage.put(SVM, model))
        for user in (one, other):
            # All at once, though no more than six can be there at a time.
            await asyncio.gather(*(user.ask(SVM, model) for model in models))

        async def none_is_overfull() -> bool:
            return all(0 < at.used_bytes <= at.capacity_bytes for at in await one.instances())

        await eventually(none_is_overfull)
    await _empty(mlserver_mesh)


async def _empty(mesh: list[Pod]) -> None:
    """What was unregistered leaves the servers and the disk."""
    await eventually(lambda: not any(pod.repository.ready_models() | pod.pulled() for pod in mesh))
