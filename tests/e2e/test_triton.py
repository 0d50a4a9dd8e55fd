"""Promises to who serves models with Triton."""

import numpy
import pytest
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from tests.adapters.samples import ONNX
from tests.e2e.pods import Pod, Storage
from tests.e2e.users import User, eventually

pytestmark = pytest.mark.timeout(300)


async def test_an_onnx_model_answers_rightly_through_every_instance(
    triton_mesh: list[Pod], storage: Storage
) -> None:
    beside, router = triton_mesh
    async with User(beside) as one, User(router) as other:
        await other.register("mnist", ONNX.format, storage.put(ONNX, "mnist"))
        await other.ask(ONNX, "mnist")
        await one.ask(ONNX, "mnist")
        assert beside.repository.ready_models() == {"mnist"}
        async with tritonclient.grpc.aio.InferenceServerClient(router.address) as client:
            metadata = await client.get_model_metadata("mnist", headers={"mm-model-id": "mnist"})
            assert [(tensor.name, list(tensor.shape)) for tensor in metadata.inputs] == [
                ("Input3", [1, 1, 28, 28])
            ]
            assert [tensor.name for tensor in metadata.outputs] == ["Plus214_Output_0"]
            wrong = tritonclient.grpc.aio.InferInput("Input3", [1, 3], "FP32")
            wrong.set_data_from_numpy(numpy.zeros((1, 3), numpy.float32))
            with pytest.raises(InferenceServerException, match="Input3") as raised:
                await client.infer("mnist", [wrong], headers={"mm-model-id": "mnist"}, client_timeout=60)
            assert str(raised.value.status()) == "StatusCode.INVALID_ARGUMENT"
    await eventually(lambda: not beside.repository.ready_models() | beside.pulled())


async def test_a_repository_with_versions_is_served(triton_mesh: list[Pod], storage: Storage) -> None:
    content = ONNX.path.read_bytes()
    storage.s3.put("models", {f"digits/{version}/model.onnx": content for version in (1, 3)})
    async with User(triton_mesh[1]) as user:
        await user.register("digits", ONNX.format, "digits")
        await user.ask(ONNX, "digits")
