"""The MLServer adapter with a real MLServer, and with models from a real S3 server."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from mesh.puller import Puller, PullerSettings
from mesh.pulling import PullingRuntime
from mesh.runtimes import ModelInfo, RuntimeFailure, RuntimeLost, RuntimeReturned
from mesh.runtimes.adapters import AdapterSettings, MLServerRuntime
from tests.adapters.samples import LIGHTGBM, SVM, XGBOOST, Sample
from tests.servers.mlserver import MLServer
from tests.servers.process import free_port
from tests.servers.s3 import S3Server


def adapter_settings(mlserver: MLServer) -> AdapterSettings:
    return AdapterSettings(
        capacity_bytes=1 << 30,
        root=mlserver.models.parent,
        runtime_port=mlserver.grpc_port,
        poll_interval_s=0.05,
    )


@pytest.fixture
async def runtime(mlserver: MLServer) -> AsyncIterator[MLServerRuntime]:
    runtime = MLServerRuntime(adapter_settings(mlserver))
    await runtime.start()
    yield runtime
    await runtime.close()


async def is_gone(mlserver: MLServer, model_id: str) -> bool:
    async with tritonclient.grpc.aio.InferenceServerClient(mlserver.endpoint) as client:
        try:
            await client.get_model_metadata(model_id)
        except InferenceServerException as error:
            return "NOT_FOUND" in str(error.status())
    return False


@pytest.mark.parametrize("sample", [SVM, XGBOOST, LIGHTGBM], ids=lambda sample: sample.format)
async def test_a_model_is_loaded_asked_and_unloaded(
    runtime: MLServerRuntime, mlserver: MLServer, sample: Sample
) -> None:
    model = ModelInfo(f"the-{sample.format}", "ignored", str(sample.path), sample.key)
    loaded = await runtime.load(model)
    assert loaded.size_bytes == int(sample.path.stat().st_size * 1.25)
    assert loaded.max_concurrency == 0
    await sample.check(runtime.serving_address, model.model_id)
    await runtime.unload(model.model_id)
    assert await is_gone(mlserver, model.model_id)
    assert not (mlserver.models / model.model_id).exists()
    await runtime.unload(model.model_id)


@pytest.mark.parametrize("model_id", ["isvc__isvc-1a2b", "with space/and slash", "..", "per%2Fcent~"])
async def test_any_id_can_be_a_models_name(
    runtime: MLServerRuntime, mlserver: MLServer, model_id: str
) -> None:
    await runtime.load(ModelInfo(model_id, "xgboost", str(XGBOOST.path), ""))
    await XGBOOST.check(runtime.serving_address, model_id)
    await runtime.unload(model_id)
    assert list(mlserver.models.iterdir()) == []


async def test_start_unloads_and_clears_what_is_there(runtime: MLServerRuntime, mlserver: MLServer) -> None:
    await runtime.load(ModelInfo("left", "xgboost", str(XGBOOST.path), ""))
    (mlserver.models / "stray").mkdir()
    after = MLServerRuntime(adapter_settings(mlserver))
    parameters = await after.start()
    assert parameters.capacity_bytes == 1 << 30
    assert parameters.version == "1.7.1"
    assert parameters.methods == {
        "inference.GRPCInferenceService/ModelInfer": (1,),
        "inference.GRPCInferenceService/ModelMetadata": (1,),
    }
    assert await is_gone(mlserver, "left")
    assert list(mlserver.models.iterdir()) == []
    await after.close()


async def test_settings_of_the_models_own_count(
    runtime: MLServerRuntime, mlserver: MLServer, tmp_path: Path
) -> None:
    SVM.copy_to(tmp_path / "own", "weights.bin")
    (tmp_path / "own" / "model-settings.json").write_text(
        json.dumps(
            {
                "name": "something-else",
                "implementation": "mlserver_sklearn.SKLearnModel",
                "parameters": {"uri": "./weights.bin"},
            }
        )
    )
    (tmp_path / "_schema.json").write_text(
        '{"inputs":[{"name":"predict","datatype":"FP32","shape":[-1,64]}]}'
    )
    key = json.dumps({"model_type": "whatever", "schema_path": str(tmp_path / "_schema.json")})
    await runtime.load(ModelInfo("native", "", str(tmp_path / "own"), key))
    await SVM.check(runtime.serving_address, "native")
    async with tritonclient.grpc.aio.InferenceServerClient(mlserver.endpoint) as client:
        metadata = await client.get_model_metadata("native")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
        ("predict", "FP32", [-1, 64])
    ]
    await runtime.unload("native")


async def test_a_model_that_the_server_cannot_load_keeps_the_servers_reason(
    runtime: MLServerRuntime, mlserver: MLServer, tmp_path: Path
) -> None:
    (tmp_path / "model.joblib").write_text("this is no pickle")
    with pytest.raises(RuntimeFailure) as raised:
        await runtime.load(ModelInfo("broken", "sklearn", str(tmp_path / "model.joblib"), ""))
    assert raised.value.code is grpc.StatusCode.INTERNAL
    assert raised.value.message.startswith("Failed to load Model due to MLServer runtime error: ")
    assert not (mlserver.models / "broken").exists()
    with pytest.raises(RuntimeFailure) as raised:
        await runtime.load(ModelInfo("missing", "sklearn", str(tmp_path / "none"), ""))
    assert raised.value.code is grpc.StatusCode.NOT_FOUND
    assert raised.value.message.startswith(
        "Failed to load Model due to adapter error: Error calling stat on "
    )


async def test_sizes_and_limits_come_from_the_settings(runtime: MLServerRuntime, mlserver: MLServer) -> None:
    model = ModelInfo("m", "xgboost", str(XGBOOST.path), "")
    assert await runtime.predict_size(model) is None
    assert await runtime.predict_size(replace(model, key='{"disk_size_bytes":344817}')) == 431021
    limited = MLServerRuntime(
        replace(adapter_settings(mlserver), concurrency_limit=3, default_model_size_bytes=12_345)
    )
    assert (await limited.start()).limit_model_concurrency
    for key in ("", '{"disk_size_bytes":0}'):
        loaded = await limited.load(replace(model, key=key))
        assert loaded.size_bytes == 12_345
        assert loaded.max_concurrency == 3
    await limited.unload("m")
    await limited.close()


async def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    settings = AdapterSettings(
        capacity_bytes=1 << 30,
        root=tmp_path,
        runtime_port=free_port(),
        start_limit_s=0.5,
        poll_interval_s=0.05,
    )
    runtime = MLServerRuntime(settings)
    with pytest.raises(RuntimeFailure) as raised:
        await runtime.start()
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert f"127.0.0.1:{settings.runtime_port}" in raised.value.message
    assert "RUNTIME_PORT" in raised.value.message
    assert (tmp_path / "_mlserver_models").is_dir()
    await runtime.close()


async def test_models_come_from_s3_and_leave_no_trace(
    mlserver: MLServer, s3: S3Server, tmp_path: Path
) -> None:
    s3.put("models", {"sklearn/mnist-svm.joblib": SVM.path.read_bytes(), "broken/model.json": b"{"})
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "minio").write_text(json.dumps(s3.storage_config(default_bucket="models")))
    root = mlserver.models.parent
    puller = Puller(PullerSettings(root=root, storage_config_dir=tmp_path / "storage"))
    runtime = PullingRuntime(MLServerRuntime(adapter_settings(mlserver)), puller)
    await runtime.start()
    before = sorted(entry.name for entry in root.iterdir())

    model = ModelInfo(
        "mnist",
        "rt:sklearn",
        "sklearn/mnist-svm.joblib",
        '{"storage_key":"minio","model_type":{"name":"sklearn"}}',
    )
    assert await runtime.predict_size(model) == 431021
    models = [replace(model, model_id=f"mnist-{number}") for number in range(4)]
    for loaded in await asyncio.gather(*(runtime.load(one) for one in models)):
        assert loaded.size_bytes == 431021
    for one in models:
        await SVM.check(runtime.serving_address, one.model_id)
    assert json.loads((root / "mnist-1" / ".mesh-pulled").read_text()) == {"model_id": "mnist-1"}

    with pytest.raises(RuntimeFailure) as raised:
        await runtime.load(ModelInfo("broken", "xgboost", "broken/model.json", '{"storage_key":"minio"}'))
    assert raised.value.code is grpc.StatusCode.INTERNAL
    with pytest.raises(RuntimeFailure) as raised:
        await runtime.load(ModelInfo("nope", "xgboost", "nope", '{"storage_key":"minio"}'))
    assert raised.value.code is grpc.StatusCode.NOT_FOUND
    for one in models:
        await runtime.unload(one.model_id)
    assert sorted(entry.name for entry in root.iterdir() if entry.name != ".mesh-puller") == before
    assert list(mlserver.models.iterdir()) == []
    await runtime.close()


async def test_a_restart_is_noticed_and_the_server_is_ready_again(
    runtime: MLServerRuntime, mlserver: MLServer
) -> None:
    model = ModelInfo("lost", "xgboost", str(XGBOOST.path), "")
    await runtime.load(model)
    events = runtime.watch()
    lost = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(mlserver.process.kill)
    assert isinstance(await asyncio.wait_for(lost, 30), RuntimeLost)
    returned = asyncio.ensure_future(anext(events))
    await asyncio.to_thread(mlserver.start)
    event = await asyncio.wait_for(returned, 60)
    assert isinstance(event, RuntimeReturned)
    assert event.parameters.capacity_bytes == 1 << 30
    assert list(mlserver.models.iterdir()) == []
    await runtime.load(model)
    await XGBOOST.check(runtime.serving_address, "lost")
    await runtime.unload("lost")
