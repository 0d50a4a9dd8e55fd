"""TorchServe behind its adapter: the model store, measured sizes, failures, and restarts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st

from mesh.protos import model_mesh_pb2 as api
from mesh.protos import torchserve_inference_pb2 as inference
from mesh.protos.torchserve_inference_pb2_grpc import InferenceAPIsServiceStub
from mesh.runtimes import ModelInfo, RuntimeFailure, RuntimeLost, RuntimeReturned
from mesh.runtimes.adapters import AdapterSettings, TorchServeRuntime, TorchServeSettings
from mesh.runtimes.adapters.torchserve_layout import archive_name
from tests.adapters.fake_torchserve import WORKER_BYTES, FakeTorchServe, write_archive
from tests.instance.meshes import eventually
from tests.instance.processes import InstanceProcess
from tests.servers.etcd import EtcdServer

STORE = "_torchserve_models"
CONFIG = "mmconfig.properties"


@pytest.fixture
async def torchserve(tmp_path: Path) -> AsyncIterator[FakeTorchServe]:
    server = FakeTorchServe(tmp_path / "models" / STORE)
    await server.start()
    yield server
    await server.stop()


def settings(torchserve: FakeTorchServe) -> TorchServeSettings:
    common = AdapterSettings(
        1 << 30,
        root=torchserve.store.parent,
        runtime_port=torchserve.port,
        loading_timeout_ms=5_000,
        size_multiplier=2.75,
        poll_interval_s=0.05,
    )
    return TorchServeSettings(common, serving_port=torchserve.serving_port)


@pytest.fixture
async def runtime(torchserve: FakeTorchServe) -> AsyncIterator[TorchServeRuntime]:
    runtime = TorchServeRuntime(settings(torchserve))
    await runtime.start()
    yield runtime
    await runtime.close()


def model(tmp_path: Path, model_id: str, content: str = "weights", version: str = "1.0") -> ModelInfo:
    archive = write_archive(tmp_path / "data" / f"{archive_name(model_id)}-{version}", content, version)
    return ModelInfo(model_id, "pytorch", str(archive), '{"disk_size_bytes": 1000}')


async def ask(address: str, name: str, **metadata: str) -> bytes:
    headers = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    async with aio.insecure_channel(address) as channel:
        request = inference.PredictionsRequest(model_name=name, input={"data": b"x"})
        stub = InferenceAPIsServiceStub(channel)
        return (await stub.Predictions(request, timeout=30, metadata=headers)).prediction


def in_store(torchserve: FakeTorchServe) -> list[str]:
    return sorted(entry.name for entry in torchserve.store.iterdir())


@pytest.mark.parametrize(
    "model_id", ["wine", "a/b", "..", "C:\\wine", "http://wine", "weiß ~", "isvc__isvc-1a2b"]
)
async def test_a_model_is_loaded_asked_and_unloaded(
    tmp_path: Path, torchserve: FakeTorchServe, runtime: TorchServeRuntime, model_id: str
) -> None:
    loaded = await runtime.load(model(tmp_path, model_id, content="grapes"))
    # Its size is to be measured.
    assert loaded.size_bytes == 0
    assert await ask(runtime.serving_address, model_id) == b"grapes:x"
    await runtime.unload(model_id)
    assert torchserve.models == {}
    assert in_store(torchserve) == [CONFIG]
    await runtime.unload(model_id)


async def test_a_start_writes_what_the_server_is_started_with(
    torchserve: FakeTorchServe, runtime: TorchServeRuntime
) -> None:
    lines = (torchserve.store / CONFIG).read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert told == {
        "enable_envvars_config": "true",
        "model_store": str(torchserve.store),
        "metric_time_interval": "10",
        "inference_address": "http://127.0.0.1:8083",
        "number_of_netty_threads": "8",
        "job_queue_size": "512",
        "grpc_management_port": str(torchserve.port),
        "grpc_inference_port": str(torchserve.serving_port),
        "enable_model_api": "true",
        "disable_token_authorization": "true",
    }


async def test_as_many_workers_as_requests_at_once(tmp_path: Path, torchserve: FakeTorchServe) -> None:
    few = settings(torchserve)
    few = replace(few, common=replace(few.common, concurrency_limit=3), batch_size=4, max_batch_delay_ms=50)
    runtime = TorchServeRuntime(few)
    assert (await runtime.start()).limit_model_concurrency
    assert (await runtime.load(model(tmp_path, "wine"))).max_concurrency == 3
    request = torchserve.models["wine"]["1.0"].request
    assert (request.initial_workers, request.batch_size, request.max_batch_delay) == (3, 4, 50)
    # All of them, and a tenth more.
    assert await runtime.model_size("wine") == int(3 * WORKER_BYTES * 1.1)
    await runtime.close()


async def test_a_size_is_asked_for_until_it_is_measured(
    tmp_path: Path, torchserve: FakeTorchServe, runtime: TorchServeRuntime
) -> None:
    torchserve.measured_after = 2
    await runtime.load(model(tmp_path, "wine"))
    assert await runtime.model_size("wine") == int(WORKER_BYTES * 1.1)
    assert torchserve.models["wine"]["1.0"].described == 3
    assert await runtime.model_size("never seen") is None


async def test_without_a_measurement_the_archive_tells(tmp_path: Path, torchserve: FakeTorchServe) -> None:
    torchserve.measured_after = 1_000
    runtime = TorchServeRuntime(replace(settings(torchserve), size_limit_s=0.2))
    await runtime.start()
    wine = model(tmp_path, "wine")
    assert await runtime.predict_size(wine) == 2750
    await runtime.load(wine)
    assert await runtime.model_size("wine") == int(Path(wine.path).stat().st_size * 2.75)
    await runtime.close()


async def test_what_cannot_be_loaded_says_why(
    tmp_path: Path, torchserve: FakeTorchServe, runtime: TorchServeRuntime
) -> None:
    for info, code, words in (
        (model(tmp_path, "bad", "broken"), grpc.StatusCode.INTERNAL, "Failed to start workers for model bad"),
        (ModelInfo("dir", "pytorch", str(tmp_path)), grpc.StatusCode.INVALID_ARGUMENT, "must be a MAR file"),
        (ModelInfo("none", "pytorch", str(tmp_path / "x")), grpc.StatusCode.NOT_FOUND, "no such file"),
        (ModelInfo("x" * 300, "pytorch", str(tmp_path)), grpc.StatusCode.INVALID_ARGUMENT, "too long"),
    ):
        with pytest.raises(RuntimeFailure, match=words) as raised:
            await runtime.load(info)
        assert raised.value.code is code
        assert "java" not in raised.value.message
        assert "org.pytorch" not in raised.value.message
        # As the mesh does after each load that failed.
        await runtime.unload(info.model_id)
    assert torchserve.models == {}
    assert in_store(torchserve) == [CONFIG]


async def test_a_load_that_was_given_up_does_not_stay_in_the_way(
    tmp_path: Path, torchserve: FakeTorchServe
) -> None:
    some = settings(torchserve)
    runtime = TorchServeRuntime(replace(some, common=replace(some.common, loading_timeout_ms=500)))
    await runtime.start()
    torchserve.slow.clear()
    with pytest.raises(RuntimeFailure) as raised:
        await runtime.load(model(tmp_path, "wine", "old"))
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    # The server loads it all the same, in its time.
    torchserve.slow.set()
    await eventually(lambda: "wine" in torchserve.models)
    await runtime.load(model(tmp_path, "wine", "new", version="2.0"))
    assert await ask(runtime.serving_address, "wine") == b"new:x"
    await runtime.close()


async def test_a_start_empties_the_server_and_its_store(torchserve: FakeTorchServe) -> None:
    # More than it lists at once, and one that it does not unload in one go.
    for number in range(150):
        torchserve.add(f"m{number}")
    for version in ("1.0", "3.0", "2.0"):
        torchserve.add("versions", version)
    write_archive(torchserve.store / "left.mar")
    (torchserve.store / "gone.mar").symlink_to("/nowhere.mar")
    runtime = TorchServeRuntime(settings(torchserve))
    await runtime.start()
    assert torchserve.models == {}
    assert in_store(torchserve) == [CONFIG]
    await runtime.close()


async def test_a_server_that_lets_nobody_manage_models_is_told_at_once(torchserve: FakeTorchServe) -> None:
    torchserve.may_manage = False
    runtime = TorchServeRuntime(settings(torchserve))
    with pytest.raises(RuntimeFailure, match=r"enable_model_api=true .*: Model API disabled") as raised:
        await runtime.start()
    assert raised.value.code is grpc.StatusCode.PERMISSION_DENIED
    await runtime.close()


async def test_a_server_that_is_not_healthy_is_waited_for(torchserve: FakeTorchServe) -> None:
    torchserve.healthy = "Unhealthy"
    some = settings(torchserve)
    runtime = TorchServeRuntime(replace(some, common=replace(some.common, start_limit_s=0.3)))
    with pytest.raises(RuntimeFailure, match="says that it is 'Unhealthy'") as raised:
        await runtime.start()
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    torchserve.healthy = "Healthy"
    await runtime.start()
    await runtime.close()


async def test_a_restart_is_noticed_and_the_server_is_ready_again(
    tmp_path: Path, torchserve: FakeTorchServe, runtime: TorchServeRuntime
) -> None:
    wine = model(tmp_path, "wine")
    await runtime.load(wine)
    events = runtime.watch()
    lost = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.1)
    await torchserve.stop()
    assert isinstance(await asyncio.wait_for(lost, 30), RuntimeLost)
    returned = asyncio.ensure_future(anext(events))
    # As it does of its snapshot, unless it is told not to.
    torchserve.add("from a snapshot")
    await torchserve.start()
    assert isinstance(await asyncio.wait_for(returned, 30), RuntimeReturned)
    assert torchserve.models == {}
    assert in_store(torchserve) == [CONFIG]
    await runtime.load(wine)
    assert await ask(runtime.serving_address, "wine") == b"weights:x"


async def test_an_instance_loads_what_is_asked_and_again_what_the_server_lost(
    tmp_path: Path, etcd: EtcdServer, torchserve: FakeTorchServe
) -> None:
    instance = InstanceProcess(
        etcd.kv_store,
        tmp_path,
        MESH_ADAPTER="torchserve",
        RUNTIME_PORT=str(torchserve.port),
        RUNTIME_DATA_ENDPOINT=f"port:{torchserve.serving_port}",
        CONTAINER_MEM_REQ_BYTES=str(1 << 30),
        ROOT_MODEL_DIR=str(torchserve.store.parent),
    )
    instance.mesh.start()
    try:
        await asyncio.to_thread(instance.wait_until_ready)
        client = instance.client()
        wine = model(tmp_path, "wine")
        await client.register("wine", path=wine.path, key=wine.key)
        address = f"127.0.0.1:{instance.port}"
        # Whatever name the request has, the model server is told the model's id.
        assert await ask(address, "anything", mm_model_id="wine") == b"weights:x"
        torchserve.models.clear()
        assert await ask(address, "wine", mm_model_id="wine") == b"weights:x"
        assert (await client.status("wine")).status == api.ModelStatusInfo.LOADED
    finally:
        await asyncio.to_thread(instance.stop)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), unique=True))
def test_names_of_archives_are_one_to_one_and_no_urls_or_paths(model_ids: list[str]) -> None:
    names = [archive_name(model_id) for model_id in model_ids]
    assert len(set(names)) == len(names)
    assert not any(set(name) & set("/\\:\0") or ".." in name for name in names)


def test_settings_are_those_of_the_pod() -> None:
    memory = {"CONTAINER_MEM_REQ_BYTES": str(1 << 30)}
    defaults = TorchServeSettings.from_environment(memory)
    assert (defaults.common.runtime_port, defaults.serving_port) == (7071, 7070)
    assert defaults.common.size_multiplier == 2.75
    assert (defaults.batch_size, defaults.max_batch_delay_ms) == (0, 0)
    chosen = {
        "RUNTIME_DATA_ENDPOINT": "port:9000",
        "REQUEST_BATCH_SIZE": "8",
        "MAX_BATCH_DELAY_SECS": "100",
        "MODELSIZE_MULTIPLIER": "2",
    }
    told = TorchServeSettings.from_environment({**memory, **chosen})
    assert (told.serving_port, told.batch_size, told.max_batch_delay_ms) == (9000, 8, 100)
    assert told.common.size_multiplier == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUNTIME_DATA_ENDPOINT", "7070"),
        ("RUNTIME_DATA_ENDPOINT", "port:0"),
        ("RUNTIME_DATA_ENDPOINT", "unix:/tmp/socket"),
        ("REQUEST_BATCH_SIZE", "-1"),
        ("MAX_BATCH_DELAY_SECS", "1s"),
    ],
)
def test_a_bad_setting_is_named(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        TorchServeSettings.from_environment({"CONTAINER_MEM_REQ_BYTES": str(1 << 30), variable: value})
