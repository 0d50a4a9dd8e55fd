"""``mesh puller`` between a mesh and a custom runtime."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc import aio

from mesh.protos import model_runtime_pb2 as pb
from mesh.protos.model_runtime_pb2_grpc import ModelRuntimeStub
from mesh.pulling import StandaloneSettings
from mesh.runtimes import ModelInfo, RuntimeEndpoints, RuntimeFailure, SpiRuntime
from tests.puller.conftest import names
from tests.runtimes.scripted import Scripted, hang, ready
from tests.servers.process import ServerProcess, free_port

KEY = '{"storage_params":{"type":"local"},"model_type":"onnx"}'


async def load_well(request: pb.LoadModelRequest, _context: object) -> pb.LoadModelResponse:
    return pb.LoadModelResponse(sizeInBytes=Path(request.modelPath).stat().st_size)


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Scripted]:
    scripted = Scripted(
        {
            "runtimeStatus": ready(),
            "loadModel": load_well,
            "unloadModel": pb.UnloadModelResponse(),
            "predictModelSize": (grpc.StatusCode.UNIMPLEMENTED, "not told"),
            "modelSize": pb.ModelSizeResponse(sizeInBytes=77),
        }
    )
    async with scripted.serve(f"unix:{tmp_path / 'runtime.sock'}"):
        yield scripted


@pytest.fixture
async def address(tmp_path: Path, runtime: Scripted) -> AsyncIterator[str]:
    """Of a puller that runs as a process, as in a pod."""
    for name in ("models", "local", "storage"):
        (tmp_path / name).mkdir()
    (tmp_path / "local" / "wine.onnx").write_bytes(b"weights")
    port = free_port()
    process = _puller(tmp_path, port)
    process.start()
    channel = aio.insecure_channel(f"localhost:{port}")
    await asyncio.wait_for(channel.channel_ready(), 30)
    await channel.close()
    yield f"localhost:{port}"
    assert await asyncio.to_thread(process.stop) == 0


def _puller(tmp_path: Path, port: int) -> ServerProcess:
    return ServerProcess(
        "mesh puller",
        [sys.executable, "-c", "from mesh.cli import main; main()", "puller"],
        tmp_path / "puller.log",
        env={
            "PORT": str(port),
            "MODEL_SERVER_ENDPOINT": f"unix:{tmp_path / 'runtime.sock'}",
            "ROOT_MODEL_DIR": str(tmp_path / "models"),
            "STORAGE_CONFIG_DIR": str(tmp_path / "storage"),
            "MESH_LOCAL_MODEL_DIRS": str(tmp_path / "local"),
            "PATH": os.environ["PATH"],
        },
    )


async def test_a_mesh_loads_and_unloads_through_it(tmp_path: Path, runtime: Scripted, address: str) -> None:
    mesh = SpiRuntime(RuntimeEndpoints((address,)))
    parameters = await mesh.start()
    assert parameters.capacity_bytes == ready().capacityInBytes
    loaded = await mesh.load(ModelInfo("wine", "onnx", "wine.onnx", KEY))
    assert loaded.size_bytes == 7
    local = str(tmp_path / "models" / "wine" / "wine.onnx")
    request = runtime.calls[-1][1]
    assert (request.modelId, request.modelType, request.modelPath) == ("wine", "onnx", local)
    assert json.loads(request.modelKey) == {"model_type": "onnx", "disk_size_bytes": 7}
    assert await mesh.model_size("wine") == 77
    assert await mesh.predict_size(ModelInfo("wine")) is None
    await mesh.unload("wine")
    assert runtime.names()[-1] == "unloadModel"
    assert names(tmp_path / "models") == [".mesh-puller"]
    await mesh.close()


async def test_nothing_of_an_earlier_run_is_left_when_it_is_ready(
    tmp_path: Path, runtime: Scripted, address: str
) -> None:
    async with aio.insecure_channel(address) as channel:
        stub = ModelRuntimeStub(channel)
        await stub.loadModel(pb.LoadModelRequest(modelId="a/b", modelPath="wine.onnx", modelKey=KEY))
        runtime.answers["runtimeStatus"] = ready(status=pb.RuntimeStatusResponse.STARTING)
        answer = await stub.runtimeStatus(pb.RuntimeStatusRequest())
        assert answer.status == pb.RuntimeStatusResponse.STARTING
        assert "unloadModel" not in runtime.names()
        runtime.answers["runtimeStatus"] = ready()
        assert await stub.runtimeStatus(pb.RuntimeStatusRequest()) == ready()
    assert runtime.calls[-1] == ("unloadModel", pb.UnloadModelRequest(modelId="a/b"))
    assert [name for name in names(tmp_path / "models") if not name.startswith(".")] == []


async def test_failures_keep_their_codes(tmp_path: Path, runtime: Scripted, address: str) -> None:
    mesh = SpiRuntime(RuntimeEndpoints((address,)))
    await mesh.start()
    with pytest.raises(RuntimeFailure, match=r"there is no 'beer\.onnx'") as missing:
        await mesh.load(ModelInfo("beer", "onnx", "beer.onnx", KEY))
    assert missing.value.code is grpc.StatusCode.NOT_FOUND
    runtime.answers["loadModel"] = (grpc.StatusCode.INVALID_ARGUMENT, "no such operator")
    with pytest.raises(RuntimeFailure, match="model runtime error: no such operator") as refused:
        await mesh.load(ModelInfo("wine", "onnx", "wine.onnx", KEY))
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [name for name in names(tmp_path / "models") if not name.startswith(".")] == []
    runtime.answers["loadModel"] = load_well
    await mesh.load(ModelInfo("wine", "onnx", "wine.onnx", KEY))
    runtime.answers["unloadModel"] = (grpc.StatusCode.UNAVAILABLE, "busy")
    with pytest.raises(RuntimeFailure, match="Failed to unload model from runtime"):
        await mesh.unload("wine")
    assert (tmp_path / "models" / "wine" / "wine.onnx").exists()
    runtime.answers["unloadModel"] = (grpc.StatusCode.NOT_FOUND, "unknown")
    await mesh.unload("wine")
    assert not (tmp_path / "models" / "wine").exists()
    await mesh.close()


async def test_a_load_that_is_given_up_stops_no_other(
    tmp_path: Path, runtime: Scripted, address: str
) -> None:
    runtime.answers["loadModel"] = [hang, load_well]
    async with aio.insecure_channel(address) as channel:
        stub = ModelRuntimeStub(channel)
        stuck = stub.loadModel(
            pb.LoadModelRequest(modelId="one", modelPath="wine.onnx", modelKey=KEY), timeout=60
        )
        await asyncio.wait_for(runtime.arrived["loadModel"].wait(), 30)
        stuck.cancel()
        request = pb.LoadModelRequest(modelId="two", modelPath="wine.onnx", modelKey=KEY)
        assert (await stub.loadModel(request, timeout=60)).sizeInBytes == 7
        request.modelId = "one"
        assert (await stub.loadModel(request, timeout=60)).sizeInBytes == 7
    await asyncio.wait_for(runtime.cancelled.wait(), 30)


async def test_without_a_model_server_it_ends_and_says_so(tmp_path: Path) -> None:
    process = _puller(tmp_path, free_port())
    process.start()
    await asyncio.to_thread(process.wait_until, lambda: not process.running, 60)
    assert process.kill() == 1
    assert "MODEL_SERVER_ENDPOINT" in process.log_tail()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MODEL_SERVER_ENDPOINT", "8085"),
        ("MODEL_SERVER_ENDPOINT", "port:0"),
        ("PORT", "x"),
        ("MESH_KEPT_MODEL_BYTES", "-1"),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        StandaloneSettings.from_environment({variable: value})
