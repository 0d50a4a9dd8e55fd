"""Promises about models that cannot be loaded: who asks is told what is wrong, and the others are served on."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tritonclient.utils import InferenceServerException

from mesh.protos import model_mesh_pb2 as api
from tests.adapters.samples import LIGHTGBM, SVM, XGBOOST
from tests.e2e.pods import BUCKET, Pod, Storage
from tests.e2e.users import User, eventually, model_key

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Fault:
    """A model that cannot be loaded.

    Attributes:
        told: what the message must name.
        content: of the object at ``path``, where there is one.
    """

    model_type: str
    path: str
    key: str
    told: tuple[str, ...]
    content: bytes = b""


FAULTS = {
    "bucket": Fault(
        "sklearn", "fault/svm", model_key("sklearn", bucket="no-such-bucket"), ("NOT_FOUND", "no-such-bucket")
    ),
    "path": Fault("sklearn", "fault/absent", model_key("sklearn"), ("NOT_FOUND", "fault/absent", BUCKET)),
    "credentials": Fault(
        "sklearn",
        "fault/svm",
        model_key("sklearn", "wrong-secret"),
        ("UNAUTHENTICATED", BUCKET, "credentials"),
    ),
    "storage": Fault(
        "sklearn", "fault/svm", model_key("sklearn", "no-such-storage"), ("NOT_FOUND", "no-such-storage")
    ),
    "key": Fault("sklearn", "fault/svm", "{not json", ("INVALID_ARGUMENT", "modelKey", "{not json")),
    "file": Fault(
        "lightgbm", "fault/cut.bst", model_key("lightgbm"), ("number of classes",), b"tree\nversion=v3"
    ),
    "type": Fault(
        "caffe", "fault/any.bin", model_key("caffe"), ("INVALID_ARGUMENT", "'caffe'", "sklearn"), b"x"
    ),
    "damaged file": Fault("xgboost", "fault/cut.json", model_key("xgboost"), ("Expecting",), b'{"learner": '),
    "size": Fault(
        "sklearn", "fault/huge.joblib", model_key("sklearn"), ("larger than", "6.2 MiB"), bytes(5 << 20)
    ),
}


@pytest.fixture(params=["builtin_mesh", "mlserver_mesh"])
def mesh(request: pytest.FixtureRequest) -> list[Pod]:
    pods: list[Pod] = request.getfixturevalue(request.param)
    return pods[:2]


async def test_who_waits_for_a_model_that_cannot_be_loaded_is_told_why(
    mesh: list[Pod], storage: Storage
) -> None:
    storage.s3.put(BUCKET, {fault.path: fault.content for fault in FAULTS.values() if fault.content})
    async with User(mesh[0]) as one, User(mesh[1]) as other:
        await one.register("fine", XGBOOST.format, storage.put(XGBOOST, "fine"))
        await one.ask(XGBOOST, "fine")
        for name, fault in FAULTS.items():
            status = await one.register(name, fault.model_type, fault.path, fault.key, load=True)
            assert status.status == api.ModelStatusInfo.LOADING_FAILED, name
            assert _all_told(fault, status.errors), (name, status.errors)
            # Whoever asks by another instance hears the same.
            with pytest.raises(InferenceServerException) as raised:
                await other.ask(SVM, name)
            assert _all_told(fault, [str(raised.value)]), (name, str(raised.value))

            async def known_to_the_other(name: str = name, fault: Fault = fault) -> bool:
                status = await other.status(name)
                return status.status == api.ModelStatusInfo.LOADING_FAILED and _all_told(fault, status.errors)

            await eventually(known_to_the_other)
            await other.ask(XGBOOST, "fine")
            await one.ask(XGBOOST, "fine")
        assert set.union(*(pod.pulled() for pod in mesh)) == {"fine"}


def _all_told(fault: Fault, messages: object) -> bool:
    return all(word in str(messages) for word in fault.told)


async def test_a_model_that_was_put_right_is_served_once_it_is_registered_anew(
    mesh: list[Pod], storage: Storage, tmp_path: Path
) -> None:
    path = f"{tmp_path.name}/{LIGHTGBM.file}"
    async with User(mesh[0]) as one, User(mesh[1]) as other:
        status = await one.register("late", LIGHTGBM.format, path, load=True)
        assert status.status == api.ModelStatusInfo.LOADING_FAILED

        async def failed_on_both() -> bool:
            return len(await one.failures("late")) == 2

        await eventually(failed_on_both)
        storage.put(LIGHTGBM, tmp_path.name)
        await one.unregister("late")
        await other.register("late", LIGHTGBM.format, path)
        await other.ask(LIGHTGBM, "late")
        await one.ask(LIGHTGBM, "late")


async def test_with_the_storage_away_what_is_loaded_is_served(
    builtin_mesh: list[Pod], storage: Storage, tmp_path: Path
) -> None:
    path = storage.put(SVM, tmp_path.name)
    async with User(builtin_mesh[0]) as one, User(builtin_mesh[1]) as other:
        await one.register("warm", SVM.format, path)
        await one.ask(SVM, "warm")
        await asyncio.to_thread(storage.s3.process.kill)
        try:
            status = await one.register("cold", SVM.format, path, load=True)
            assert status.status == api.ModelStatusInfo.LOADING_FAILED
            assert any("UNAVAILABLE" in error and storage.s3.endpoint in error for error in status.errors)
            for user in (one, other):
                await user.ask(SVM, "warm")
        finally:
            await asyncio.to_thread(storage.s3.start)
        await one.register("new", SVM.format, path)
        await other.ask(SVM, "new")


async def test_a_model_that_nobody_registered_is_not_found(mesh: list[Pod]) -> None:
    for pod in mesh:
        async with User(pod) as user:
            with pytest.raises(InferenceServerException) as raised:
                await user.ask(SVM, "unheard-of")
        assert str(raised.value.status()) == str(grpc.StatusCode.NOT_FOUND)
        assert "not found" in str(raised.value.message())
