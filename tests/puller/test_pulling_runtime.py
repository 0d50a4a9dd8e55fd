"""The layer that pulls before a runtime loads: rewritten requests, order, cancellation, clearing up."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from mesh.puller import Code, Puller, PullFailure
from mesh.pulling import PullingRuntime
from mesh.runtimes import (
    LoadedModel,
    ModelInfo,
    ModelRuntime,
    RuntimeEvent,
    RuntimeFailure,
    RuntimeLost,
    RuntimeParameters,
    RuntimeReturned,
)
from tests.puller.conftest import MakePuller, names
from tests.puller.faulty_s3 import FaultyS3
from tests.puller.test_s3_faults import key_for

LOCAL = '{"storage_params":{"type":"local"},"model_type":"onnx"}'
PARAMETERS = RuntimeParameters(1 << 30, 4, 10_000, 1 << 20)


class ReadingRuntime(ModelRuntime):
    """Loads a model by reading its file; waits, fails and dies as told."""

    def __init__(self) -> None:
        self.loaded: dict[str, bytes] = {}
        self.requests: list[ModelInfo] = []
        self.calls: list[str] = []
        self.wait = asyncio.Event()
        self.wait.set()
        self.entered = asyncio.Event()
        self.failure: RuntimeFailure | None = None
        self.events: asyncio.Queue[RuntimeEvent] = asyncio.Queue()

    @property
    def serving_address(self) -> str:
        return "unix:/nowhere"

    async def start(self) -> RuntimeParameters:
        return PARAMETERS

    async def load(self, model: ModelInfo) -> LoadedModel:
        self.calls.append(f"load {model.model_id}")
        self.requests.append(model)
        self.entered.set()
        await self.wait.wait()
        if self.failure is not None:
            raise self.failure
        self.loaded[model.model_id] = Path(model.path).read_bytes()
        return LoadedModel(len(self.loaded[model.model_id]))

    async def unload(self, model_id: str) -> None:
        self.calls.append(f"unload {model_id}")
        if self.failure is not None:
            raise self.failure
        self.loaded.pop(model_id, None)

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        while True:
            yield await self.events.get()

    async def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def inner() -> ReadingRuntime:
    return ReadingRuntime()


@pytest.fixture
async def runtime(
    tmp_path: Path, make_puller: MakePuller, inner: ReadingRuntime
) -> AsyncIterator[PullingRuntime]:
    (tmp_path / "local" / "m.onnx").write_bytes(b"model")
    runtime = PullingRuntime(inner, make_puller())
    yield runtime
    await runtime.close()


def model(model_id: str = "m", path: str = "m.onnx") -> ModelInfo:
    return ModelInfo(model_id, "rt:onnx", path, LOCAL)


async def test_the_runtime_gets_local_paths(
    tmp_path: Path, runtime: PullingRuntime, inner: ReadingRuntime
) -> None:
    assert await runtime.start() == PARAMETERS
    assert (await runtime.load(model())).size_bytes == 5
    [request] = inner.requests
    assert request.model_id == "m"
    assert request.model_type == "rt:onnx"
    assert request.path == str(tmp_path / "models" / "m" / "m.onnx")
    assert json.loads(request.key) == {"model_type": "onnx", "disk_size_bytes": 5}
    await runtime.unload("m")
    assert inner.loaded == {}
    assert names(tmp_path / "models") == [".mesh-puller"]


async def test_start_clears_what_an_earlier_run_left(
    tmp_path: Path, make_puller: MakePuller, runtime: PullingRuntime
) -> None:
    await make_puller().pull("old", "m.onnx", LOCAL)
    await runtime.start()
    assert names(tmp_path / "models") == []


async def test_a_failed_pull_keeps_its_code_and_asks_nothing_of_the_runtime(
    runtime: PullingRuntime, inner: ReadingRuntime
) -> None:
    with pytest.raises(RuntimeFailure) as raised:
        await runtime.load(model(path="nope"))
    assert raised.value.code is grpc.StatusCode.NOT_FOUND
    assert "'nope'" in raised.value.message
    assert inner.calls == []


async def test_a_failed_load_leaves_no_data(
    tmp_path: Path, runtime: PullingRuntime, inner: ReadingRuntime
) -> None:
    inner.failure = RuntimeFailure(grpc.StatusCode.INTERNAL, "broken model")
    with pytest.raises(RuntimeFailure, match="broken model"):
        await runtime.load(model())
    assert not (tmp_path / "models" / "m").exists()


async def test_a_load_of_unknown_outcome_is_unloaded_before_its_data_goes(
    tmp_path: Path, runtime: PullingRuntime, inner: ReadingRuntime
) -> None:
    inner.failure = RuntimeFailure(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer")
    with pytest.raises(RuntimeFailure, match="no answer"):
        await runtime.load(model())
    assert inner.calls == ["load m", "unload m"]
    # The unload failed as well, so the server may still be reading.
    assert (tmp_path / "models" / "m" / "m.onnx").exists()
    inner.failure = None
    await runtime.unload("m")
    assert not (tmp_path / "models" / "m").exists()


async def test_a_failed_unload_keeps_the_data(
    tmp_path: Path, runtime: PullingRuntime, inner: ReadingRuntime
) -> None:
    await runtime.load(model())
    inner.failure = RuntimeFailure(grpc.StatusCode.UNAVAILABLE, "busy")
    with pytest.raises(RuntimeFailure, match="busy"):
        await runtime.unload("m")
    assert (tmp_path / "models" / "m" / "m.onnx").exists()
    inner.failure = None
    await runtime.unload("m")
    assert not (tmp_path / "models" / "m").exists()


async def test_calls_for_one_model_keep_their_order(runtime: PullingRuntime, inner: ReadingRuntime) -> None:
    inner.wait.clear()
    calls = [
        asyncio.create_task(call)
        for call in (runtime.load(model()), runtime.unload("m"), runtime.load(model()), runtime.unload("m"))
    ]
    await inner.entered.wait()
    await asyncio.sleep(0.05)
    assert inner.calls == ["load m"]
    inner.wait.set()
    await asyncio.gather(*calls)
    assert inner.calls == ["load m", "unload m", "load m", "unload m"]


async def test_models_do_not_wait_for_each_other(runtime: PullingRuntime, inner: ReadingRuntime) -> None:
    inner.wait.clear()
    slow = asyncio.create_task(runtime.load(model("slow")))
    await inner.entered.wait()
    await runtime.unload("other")
    inner.wait.set()
    await slow


async def test_a_cancelled_load_is_undone_and_holds_nobody_up(
    tmp_path: Path, runtime: PullingRuntime, inner: ReadingRuntime
) -> None:
    inner.wait.clear()
    loading = asyncio.create_task(runtime.load(model()))
    waiting = asyncio.create_task(runtime.load(model()))
    last = asyncio.create_task(runtime.unload("m"))
    await inner.entered.wait()
    waiting.cancel()
    loading.cancel()
    await asyncio.gather(loading, waiting, return_exceptions=True)
    assert loading.cancelled()
    assert waiting.cancelled()
    await asyncio.wait_for(last, 10)
    # The server may have gone on with the first; the second never began.
    assert inner.calls == ["load m", "unload m", "unload m"]
    assert not (tmp_path / "models" / "m").exists()
    inner.wait.set()
    assert (await runtime.load(model())).size_bytes == 5


async def test_a_cancelled_load_whose_model_the_runtime_keeps_keeps_its_data(
    tmp_path: Path, runtime: PullingRuntime, inner: ReadingRuntime
) -> None:
    inner.wait.clear()
    inner.failure = RuntimeFailure(grpc.StatusCode.UNAVAILABLE, "busy")
    loading = asyncio.create_task(runtime.load(model()))
    await inner.entered.wait()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    with pytest.raises(RuntimeFailure):
        await runtime.unload("m")
    assert (tmp_path / "models" / "m" / "m.onnx").exists()


async def test_the_size_is_predicted_from_storage_where_the_runtime_cannot_tell(
    tmp_path: Path, runtime: PullingRuntime, inner: ReadingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local" / "big").write_bytes(b"x" * 1000)
    assert await runtime.predict_size(model(path="big")) == 1250
    assert await runtime.predict_size(model(path="nope")) is None
    assert await runtime.predict_size(ModelInfo("m", key="no json")) is None

    async def tell(model: ModelInfo) -> int:
        return 7

    monkeypatch.setattr(inner, "predict_size", tell)
    assert await runtime.predict_size(model(path="big")) == 7


async def test_a_size_that_takes_too_long_is_not_predicted(
    make_puller: MakePuller, inner: ReadingRuntime
) -> None:
    with FaultyS3().running() as store:
        store.objects = {"m": b"x"}
        store.faults["?list"] = ["503"] * 1000
        runtime = PullingRuntime(inner, make_puller(attempts=1000), predict_timeout_s=0.2)
        assert await runtime.predict_size(ModelInfo("m", "", "m", key_for(store))) is None
        await runtime.close()


async def test_data_of_models_that_were_lost_with_the_server_goes(
    tmp_path: Path, runtime: PullingRuntime, inner: ReadingRuntime
) -> None:
    await runtime.load(model("a"))
    await runtime.load(model("b"))
    watching = runtime.watch()
    inner.events.put_nowait(RuntimeLost("killed"))
    assert await anext(watching) == RuntimeLost("killed")
    await runtime.unload("b")
    inner.events.put_nowait(RuntimeReturned(PARAMETERS))
    assert await anext(watching) == RuntimeReturned(PARAMETERS)
    assert [name for name in names(tmp_path / "models") if name != ".mesh-puller"] == []


async def test_a_server_that_is_back_is_told_of_although_data_could_not_be_deleted(
    runtime: PullingRuntime, inner: ReadingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runtime.load(model("a"))

    async def refuse(puller: Puller, model_id: str) -> None:
        raise PullFailure(Code.INTERNAL, f"{model_id}: read-only file system")

    monkeypatch.setattr(Puller, "delete", refuse)
    watching = runtime.watch()
    inner.events.put_nowait(RuntimeLost("killed"))
    assert await anext(watching) == RuntimeLost("killed")
    inner.events.put_nowait(RuntimeReturned(PARAMETERS))
    assert await anext(watching) == RuntimeReturned(PARAMETERS)
