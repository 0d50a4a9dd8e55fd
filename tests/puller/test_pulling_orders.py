"""Whatever is asked and given up in whatever order: nothing hangs, nothing overlaps, nothing is left."""

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.puller import Puller, PullerSettings
from mesh.pulling import PullingRuntime
from mesh.runtimes import LoadedModel, ModelInfo, ModelRuntime, RuntimeFailure, RuntimeParameters

KEY = '{"storage_params":{"type":"local"}}'


class WatchfulRuntime(ModelRuntime):
    """Takes a while for each call, fails now and then, and sees to it that the data is there while it loads."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.busy: set[str] = set()
        self.faults: list[str] = []
        self.loaded: set[str] = set()

    @property
    def serving_address(self) -> str:
        return ""

    async def start(self) -> RuntimeParameters:
        return RuntimeParameters(1 << 30, 1, 1000, 1 << 20)

    async def load(self, model: ModelInfo) -> LoadedModel:
        with self._alone(model.model_id):
            for _ in range(3):
                await asyncio.sleep(self.chance.uniform(0, 0.002))
                if not Path(model.path).exists():
                    self.faults.append(f"data of {model.model_id} went while it was loaded")
            if self.chance.random() < 0.2:
                raise RuntimeFailure(grpc.StatusCode.INTERNAL, "broken")
            self.loaded.add(model.model_id)
        return LoadedModel(1)

    async def unload(self, model_id: str) -> None:
        with self._alone(model_id):
            await asyncio.sleep(self.chance.uniform(0, 0.002))
            self.loaded.discard(model_id)

    async def close(self) -> None:
        pass

    @contextlib.contextmanager
    def _alone(self, model_id: str) -> Iterator[None]:
        if model_id in self.busy:
            self.faults.append(f"two calls at once for {model_id}")
        self.busy.add(model_id)
        try:
            yield
        finally:
            self.busy.discard(model_id)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "unload", "cancel", "pause"]),
        st.sampled_from(["a", "b"]),
        st.floats(0, 0.004),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60)
@given(STEPS, st.integers(0, 1000))
def test_any_order_of_calls_ends_well(steps: list[tuple[str, str, float]], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_walk(Path(folder), steps, seed))


async def _walk(folder: Path, steps: list[tuple[str, str, float]], seed: int) -> None:
    (folder / "local").mkdir()
    (folder / "local" / "m").write_text("data")
    inner = WatchfulRuntime(seed)
    puller = Puller(PullerSettings(root=folder / "models", local_roots=(folder / "local",)))
    runtime = PullingRuntime(inner, puller)
    await runtime.start()
    calls: list[asyncio.Task[object]] = []
    for what, model_id, pause in steps:
        match what:
            case "load":
                calls.append(asyncio.create_task(runtime.load(ModelInfo(model_id, "", "m", KEY))))
            case "unload":
                calls.append(asyncio.create_task(runtime.unload(model_id)))
            case "cancel" if calls:
                inner.chance.choice(calls).cancel()
            case _:
                await asyncio.sleep(pause)
    async with asyncio.timeout(20):
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert not isinstance(outcome, Exception) or isinstance(outcome, RuntimeFailure)
        # What has been given up may still be cleared away; the next call for the model waits for it.
        for model_id in ("a", "b"):
            await runtime.unload(model_id)
    assert inner.faults == []
    left = [path for path in (folder / "models").rglob("*") if path.name != ".mesh-puller"]
    assert left == []
    assert inner.loaded == set()
    assert runtime.pulls == {}
    await runtime.close()
