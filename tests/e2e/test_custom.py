"""Promises to who serves a format of one's own, with the runtime of ``examples/``, unchanged."""

import json
from collections.abc import Iterator

import numpy
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from mesh.protos import model_mesh_pb2 as api
from tests.e2e import pods
from tests.e2e.pods import BUCKET, Pod, Pods, Storage
from tests.e2e.users import User

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def mesh(make_pods: Pods) -> Iterator[list[Pod]]:
    make = pods.custom("1MiB")
    with make_pods.running(make, make) as running:
        yield running


async def test_models_of_a_format_of_ones_own_are_pulled_and_served(
    mesh: list[Pod], storage: Storage
) -> None:
    lines = {f"line-{bias}": {"weights": [2, 3], "bias": bias} for bias in range(20)}
    storage.s3.put(BUCKET, {f"lines/{name}.json": json.dumps(line).encode() for name, line in lines.items()})
    async with User(mesh[0]) as one:
        for name in lines:
            await one.register(name, "linear", f"lines/{name}.json")
        for pod in mesh:
            with tritonclient.grpc.InferenceServerClient(pod.address) as client:
                for bias, name in enumerate(lines):
                    assert _ask(client, name) == [32.0 + bias]
        assert {name for pod in mesh for name in pod.pulled()} == set(lines)


async def test_an_exception_of_ones_own_code_is_told(mesh: list[Pod], storage: Storage) -> None:
    storage.s3.put(BUCKET, {"lines/bent.json": b'{"weights": [1, 2', "lines/short.json": b'{"weights": [1]}'})
    async with User(mesh[0]) as one, User(mesh[1]) as other:
        status = await one.register("bent", "linear", "lines/bent.json", load=True)
        assert status.status == api.ModelStatusInfo.LOADING_FAILED
        assert any("JSONDecodeError" in error for error in status.errors)
        await other.register("short", "linear", "lines/short.json")
        with (
            tritonclient.grpc.InferenceServerClient(other.pod.address) as client,
            pytest.raises(InferenceServerException, match="ValueError") as raised,
        ):
            _ask(client, "short")
        assert str(raised.value.status()) == "StatusCode.INTERNAL"


def _ask(client: tritonclient.grpc.InferenceServerClient, model: str) -> list[float]:
    tensor = tritonclient.grpc.InferInput("x", [1, 2], "FP64")
    tensor.set_data_from_numpy(numpy.array([[1.0, 10.0]]))
    answer = client.infer(model, [tensor], headers={"mm-model-id": model}, client_timeout=60)
    found: list[float] = answer.as_numpy("y").tolist()
    return found
