"""Promises to who serves models of four formats with the built-in runtime, from three kinds of storage."""

import json
import shutil

import pytest

from mesh.protos import model_mesh_pb2 as api
from tests.adapters.samples import LIGHTGBM, ONNX, SVM, XGBOOST, Sample
from tests.e2e.pods import Pod, Storage
from tests.e2e.users import User, eventually

pytestmark = pytest.mark.timeout(300)

SAMPLES = {"onnx": ONNX, "sklearn": SVM, "xgboost": XGBOOST, "lightgbm": LIGHTGBM}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
async def test_a_model_from_s3_answers_rightly_through_every_instance(
    builtin_mesh: list[Pod], storage: Storage, sample: Sample
) -> None:
    model = f"s3-{sample.format}"
    async with User(builtin_mesh[0]) as one:
        await one.register(model, sample.format, storage.put(sample, model))
        for pod in builtin_mesh:
            async with User(pod) as user:
                await user.ask(sample, model)
        assert (await one.status(model)).status == api.ModelStatusInfo.LOADED
        assert len(await one.places(model)) == 1


async def test_models_of_a_host_directory_and_of_a_claim_are_served_where_they_are(
    builtin_mesh: list[Pod], storage: Storage
) -> None:
    on_host = SVM.copy_to(storage.local / "team")
    shutil.copytree(ONNX.path.parent, storage.claim / "digits" / "7")
    local = json.dumps({"model_type": {"name": "sklearn"}, "storage_params": {"type": "local"}})
    pvc = json.dumps({"model_type": "onnx", "storage_params": {"type": "pvc", "name": "claim"}})
    async with User(builtin_mesh[0]) as one, User(builtin_mesh[1]) as other:
        await one.register("on-host", "sklearn", str(on_host), local, load=True)
        await one.register("on-claim", "onnx", "digits/7", pvc, load=True)
        for user in (one, other):
            await user.ask(SVM, "on-host")
            await user.ask(ONNX, "on-claim")
        linked = [link for pod in builtin_mesh[:2] for link in pod.root.glob("on-*/*") if link.is_symlink()]
        assert len(linked) == 2
        await one.unregister("on-host")
        await one.unregister("on-claim")
        await eventually(lambda: not any(pod.pulled() & {"on-host", "on-claim"} for pod in builtin_mesh[:2]))
    assert on_host.exists()
    assert (storage.claim / "digits" / "7" / "model.onnx").exists()


async def test_a_directory_of_the_host_that_was_not_allowed_is_refused(
    builtin_mesh: list[Pod], storage: Storage
) -> None:
    local = json.dumps({"model_type": "sklearn", "storage_params": {"type": "local"}})
    async with User(builtin_mesh[0]) as user:
        status = await user.register("outside", "sklearn", str(SVM.path), local, load=True)
        assert status.status == api.ModelStatusInfo.LOADING_FAILED
        assert any(str(SVM.path) in error and str(storage.local) in error for error in status.errors)


async def test_the_least_recently_used_leave_and_come_back(builtin_mesh: list[Pod], storage: Storage) -> None:
    models = [f"lru-{number}" for number in range(24)]
    pods = builtin_mesh[:2]
    # By instance, the models that were ever on it, in the order of their use.
    used: dict[str, list[str]] = {pod.instance.instance_id: [] for pod in pods}
    async with User(builtin_mesh[2]) as user:
        for model in models:
            await user.register(model, LIGHTGBM.format, storage.put(LIGHTGBM, model))
        for model in models:
            await user.ask(LIGHTGBM, model)
            [place] = await user.places(model)
            used[place].append(model)

        async def only_the_latest_are_left() -> bool:
            kept = {instance_id: list[str]() for instance_id in used}
            for model in models:
                for place in await user.places(model):
                    kept[place].append(model)
            return all(order[len(order) - len(kept[place]) :] == kept[place] for place, order in used.items())

        await eventually(only_the_latest_are_left)
        assert await user.places(models[0]) == []
        assert await user.places(models[-1]) != []

        async def data_is_where_copies_are() -> bool:
            places = {model: await user.places(model) for model in models}
            return all(
                pod.pulled()
                == {model for model, there in places.items() if pod.instance.instance_id in there}
                for pod in pods
            )

        await eventually(data_is_where_copies_are)
        await user.ask(LIGHTGBM, models[0])
        assert await user.places(models[0]) != []

        async def none_is_overfull() -> bool:
            return all(one.used_bytes <= one.capacity_bytes for one in await user.instances())

        await eventually(none_is_overfull)
