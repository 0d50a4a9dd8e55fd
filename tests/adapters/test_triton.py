"""The Triton adapter with a real Triton, and with models from a real S3 server."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc.aio

from mesh.puller import Puller, PullerSettings
from mesh.pulling import PullingRuntime
from mesh.runtimes import ModelInfo, RuntimeFailure, RuntimeLost, RuntimeReturned
from mesh.runtimes.adapters import AdapterSettings, TritonRuntime
from tests.adapters.samples import ONNX
from tests.servers.s3 import S3Server
from tests.servers.triton import TritonServer

ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        found = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", tensor)]) for tensor in found]
"""
TENSORS = """
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
"""


def adapter_settings(triton: TritonServer) -> AdapterSettings:
    return AdapterSettings(
        capacity_bytes=1 << 30,
        root=triton.models.parent,
        runtime_port=triton.grpc_port,
        loading_timeout_ms=60_000,
        poll_interval_s=0.05,
    )


@pytest.fixture
async def runtime(triton: TritonServer) -> AsyncIterator[TritonRuntime]:
    runtime = TritonRuntime(adapter_settings(triton))
    await runtime.start()
    yield runtime
    await runtime.close()


def python_model(folder: Path, initialize: str = "pass", config: str = "") -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(ECHO.format(initialize=initialize))
    (folder / "config.pbtxt").write_text(f'name: "from-elsewhere"\nbackend: "python"\n{config or TENSORS}')
    return folder


async def is_ready(triton: TritonServer, model_id: str) -> bool:
    async with tritonclient.grpc.aio.InferenceServerClient(triton.endpoint) as client:
        return bool(await client.is_model_ready(model_id))


async def metadata(triton: TritonServer, model_id: str) -> dict[str, list[tuple[str, str, list[int]]]]:
    async with tritonclient.grpc.aio.InferenceServerClient(triton.endpoint) as client:
        found = await client.get_model_metadata(model_id)
    return {
        "inputs": [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in found.inputs],
        "outputs": [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in found.outputs],
    }


async def test_a_model_is_loaded_asked_and_unloaded(runtime: TritonRuntime, triton: TritonServer) -> None:
    loaded = await runtime.load(ModelInfo("mnist", "", str(ONNX.path), ONNX.key))
    assert loaded.size_bytes == int(26454 * 1.25)
    await ONNX.check(runtime.serving_address, "mnist")
    await runtime.unload("mnist")
    assert not await is_ready(triton, "mnist")
    assert not (triton.models / "mnist").exists()
    await runtime.unload("mnist")
    await runtime.unload("never-seen")


async def test_the_newest_version_is_served(
    runtime: TritonRuntime, triton: TritonServer, tmp_path: Path
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_text("broken, and old")
    ONNX.copy_to(tmp_path / "m" / "12", "any-name.bin")
    await runtime.load(ModelInfo("versions", "onnx:1.2", str(tmp_path / "m"), ""))
    await ONNX.check(runtime.serving_address, "versions")
    async with tritonclient.grpc.aio.InferenceServerClient(triton.endpoint) as client:
        assert list((await client.get_model_metadata("versions")).versions) == ["12"]
    await runtime.unload("versions")


async def test_a_schema_becomes_the_models_configuration(
    runtime: TritonRuntime, triton: TritonServer, tmp_path: Path
) -> None:
    schema = {
        "inputs": [{"name": "Input3", "datatype": "FP32", "shape": [1, 1, 28, 28]}],
        "outputs": [{"name": "Plus214_Output_0", "datatype": "FP32", "shape": [1, 10]}],
    }
    (tmp_path / "_schema.json").write_text(json.dumps(schema))
    key = json.dumps({"schema_path": str(tmp_path / "_schema.json")})
    await runtime.load(ModelInfo("with-schema", "onnx", str(ONNX.path), key))
    await ONNX.check(runtime.serving_address, "with-schema")
    assert await metadata(triton, "with-schema") == {
        "inputs": [("Input3", "FP32", [1, 1, 28, 28])],
        "outputs": [("Plus214_Output_0", "FP32", [1, 10])],
    }
    await runtime.unload("with-schema")


async def test_a_repository_of_the_models_own_is_served_under_the_models_id(
    runtime: TritonRuntime, triton: TritonServer, tmp_path: Path
) -> None:
    path = python_model(tmp_path / "native")
    await runtime.load(ModelInfo("isvc__isvc-1a2b", "python", str(path), ""))
    assert await is_ready(triton, "isvc__isvc-1a2b")
    assert await metadata(triton, "isvc__isvc-1a2b") == {
        "inputs": [("x", "FP32", [1])],
        "outputs": [("y", "FP32", [1])],
    }
    await runtime.unload("isvc__isvc-1a2b")


async def test_a_schema_replaces_the_tensors_of_a_repository_of_its_own(
    runtime: TritonRuntime, triton: TritonServer, tmp_path: Path
) -> None:
    path = python_model(tmp_path / "native", config=f"max_batch_size: 4\n{TENSORS}")
    schema = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1, -1]}]}
    (tmp_path / "_schema.json").write_text(json.dumps(schema))
    key = json.dumps({"schema_path": str(tmp_path / "_schema.json")})
    await runtime.load(ModelInfo("batched", "python", str(path), key))
    found = await metadata(triton, "batched")
    assert found["inputs"] == [("x", "BYTES", [-1, -1])]
    assert found["outputs"] == [("y", "FP32", [-1, 1])]
    await runtime.unload("batched")


async def test_a_model_that_the_server_cannot_load_keeps_the_servers_reason(
    runtime: TritonRuntime, triton: TritonServer, tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_text("this is no model")
    with pytest.raises(RuntimeFailure) as raised:
        await runtime.load(ModelInfo("broken", "onnx", str(tmp_path / "broken.onnx"), ""))
    assert raised.value.message.startswith("Failed to load Model due to Triton runtime error: ")
    assert "broken" in raised.value.message
    assert not (triton.models / "broken").exists()
    for model_id, kind in (("a/b", "onnx"), ("keras", "keras")):
        with pytest.raises(RuntimeFailure) as raised:
            await runtime.load(ModelInfo(model_id, kind, str(tmp_path / "broken.onnx"), ""))
        assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT
        # As the mesh does after each load that failed.
        await runtime.unload(model_id)


async def test_start_unloads_and_clears_what_is_there(
    runtime: TritonRuntime, triton: TritonServer, tmp_path: Path
) -> None:
    await runtime.load(ModelInfo("left", "", str(python_model(tmp_path / "left")), ""))
    after = TritonRuntime(adapter_settings(triton))
    parameters = await after.start()
    assert parameters.version == "2.51.0"
    assert not await is_ready(triton, "left")
    assert list(triton.models.iterdir()) == []
    await after.close()


async def test_models_come_from_s3_and_leave_no_trace(
    triton: TritonServer, s3: S3Server, tmp_path: Path
) -> None:
    s3.put("models", {"onnx/mnist/1/model.onnx": ONNX.path.read_bytes(), "onnx/mnist/labels.txt": b""})
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "default").write_text(json.dumps(s3.storage_config(bucket="models")))
    root = triton.models.parent
    puller = Puller(PullerSettings(root=root, storage_config_dir=tmp_path / "storage"))
    runtime = PullingRuntime(TritonRuntime(adapter_settings(triton)), puller)
    await runtime.start()
    model = ModelInfo("from-s3", "onnx", "onnx/mnist", "{}")
    assert await runtime.predict_size(model) == 33067
    assert (await runtime.load(model)).size_bytes == 33067
    await ONNX.check(runtime.serving_address, "from-s3")
    await runtime.unload("from-s3")
    assert not (root / "from-s3").exists()
    assert list(triton.models.iterdir()) == []
    await runtime.close()


async def test_an_unload_ends_when_the_memory_is_free(
    runtime: TritonRuntime, triton: TritonServer, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    slow = f"pass\n\n    def finalize(self):\n        import time; time.sleep(1); open({str(left)!r}, 'w').close()"
    await runtime.load(ModelInfo("slow", "python", str(python_model(tmp_path / "slow", slow)), ""))
    await runtime.unload("slow")
    assert left.exists()
    hasty = TritonRuntime(replace(adapter_settings(triton), loading_timeout_ms=300))
    await hasty.start()
    await runtime.load(ModelInfo("slow", "python", str(tmp_path / "slow"), ""))
    with pytest.raises(RuntimeFailure, match="still unloading after") as raised:
        await hasty.unload("slow")
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (triton.models / "slow").exists()
    await runtime.unload("slow")
    await hasty.close()


async def test_a_load_that_never_ends_is_given_up(triton: TritonServer, tmp_path: Path) -> None:
    runtime = TritonRuntime(replace(adapter_settings(triton), loading_timeout_ms=1500))
    await runtime.start()
    path = python_model(tmp_path / "stuck", initialize="import time; time.sleep(3600)")
    with pytest.raises(RuntimeFailure) as raised:
        await runtime.load(ModelInfo("stuck", "python", str(path), ""))
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    # Triton may still look at it.
    assert (triton.models / "stuck").exists()
    await runtime.close()
    await asyncio.to_thread(triton.restart)


async def test_a_restart_is_noticed_and_the_server_is_ready_again(
    runtime: TritonRuntime, triton: TritonServer, tmp_path: Path
) -> None:
    model = ModelInfo("lost", "", str(python_model(tmp_path / "lost")), "")
    await runtime.load(model)
    events = runtime.watch()
    lost = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(triton.kill)
    assert isinstance(await asyncio.wait_for(lost, 30), RuntimeLost)
    returned = asyncio.ensure_future(anext(events))
    await asyncio.to_thread(triton.start)
    assert isinstance(await asyncio.wait_for(returned, 60), RuntimeReturned)
    assert list(triton.models.iterdir()) == []
    await runtime.load(model)
    assert await is_ready(triton, "lost")
    await runtime.unload("lost")
