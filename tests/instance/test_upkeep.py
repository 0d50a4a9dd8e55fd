"""What an instance looks after beside requests, and what of that a user notices."""

import asyncio
import time
from typing import Any

import grpc
import pytest

from mesh.instance.reconciliation import Reconciliation
from mesh.instance.settings import UpkeepSettings
from mesh.registry import Company, ModelRecord
from mesh.runtimes import ModelInfo
from tests.instance.meshes import Mesh, eventually
from tests.instance.scripted_runtime import MIB, ScriptedRuntime

HOUR_MS = 3_600_000
OFTEN = UpkeepSettings(janitor_interval_s=1, preload=False)
REAPING = UpkeepSettings(reaper_delay_s=0, reaper_interval_s=1, dead_after_s=0, preload=False)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _record(mesh: Mesh, model_id: str) -> ModelRecord:
    return mesh.instances[0].registry.models[model_id]


async def _change(mesh: Mesh, model_id: str, **changes: Any) -> None:
    await mesh.instances[0].registry.models.update(
        model_id, lambda record: record.but(**changes) if record else None
    )


async def test_what_was_missed_is_brought_in_step(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await mesh.add(upkeep=OFTEN)
    await client.register("here", load=True, sync=True)
    await client.register("not-here")
    await client.register("gone", load=True, sync=True)
    own_id = mesh.instances[0].settings.instance_id
    # As if no event had come.
    monkeypatch.setattr(Reconciliation, "_changed", lambda *_: None)
    mesh.instances[0].registry.models._subscribers = ()
    await _change(mesh, "here", copies={}, failures={own_id: 1}, last_used=1)
    await _change(mesh, "not-here", copies={own_id: 1}, failures={own_id: 1})
    await mesh.instances[0].registry.models.update("gone", lambda _: None)
    await eventually(lambda: own_id in _record(mesh, "here").copies and not _record(mesh, "here").failures)
    await eventually(lambda: not _record(mesh, "not-here").copies and not _record(mesh, "not-here").failures)
    await eventually(lambda: _record(mesh, "here").last_used > _now_ms() - 2 * HOUR_MS)
    await eventually(lambda: "gone" not in mesh.runtimes[0].loaded)
    assert mesh.loads("here") == 1


async def test_an_evicted_model_keeps_its_last_use(mesh: Mesh) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), capacity=30 * MIB, size=20 * MIB))
    await client.register("a", load=True, sync=True)
    await _change(mesh, "a", last_used=1)
    began_ms = _now_ms()
    await client.infer("a")
    await client.register("b", load=True, sync=True)
    await client.infer("b")
    await eventually(lambda: not _record(mesh, "a").copies)
    assert began_ms <= _record(mesh, "a").last_used <= _now_ms()


async def test_a_dead_instance_is_forgotten(mesh: Mesh) -> None:
    client = await mesh.add(upkeep=REAPING)
    await client.register("m", load=True, sync=True)
    own_id = mesh.instances[0].settings.instance_id
    copies = {**_record(mesh, "m").copies, "dead": 1}
    await _change(mesh, "m", copies=copies, failures={"dead-too": 1})
    await eventually(lambda: set(_record(mesh, "m").copies) == {own_id} and not _record(mesh, "m").failures)
    assert await client.infer("m") == b"m:x"
    assert mesh.loads("m") == 1


async def test_the_record_of_an_instance_without_a_session_is_deleted(mesh: Mesh) -> None:
    await mesh.add(upkeep=REAPING)
    registry = mesh.instances[0].registry
    entry = await registry.store.get(registry.keys.instances + mesh.instances[0].settings.instance_id)
    assert entry is not None
    await registry.store.put(
        registry.keys.instances + "ghost", entry.value.replace(b"127.0.0.1", b"127.0.0.9")
    )

    async def is_gone() -> bool:
        return await registry.store.get(registry.keys.instances + "ghost") is None

    await eventually(is_gone)
    assert mesh.instances[0].settings.instance_id in registry.instances


async def test_models_used_lately_are_loaded_ahead_of_demand(mesh: Mesh) -> None:
    upkeep = UpkeepSettings(reaper_delay_s=1, reaper_interval_s=3_600)
    runtime = ScriptedRuntime(mesh.socket(), capacity=80 * MIB)
    client = await mesh.add(runtime, upkeep=upkeep)
    for number in range(40):
        await client.register(f"m{number:02}")
        await _change(mesh, f"m{number:02}", last_used=_now_ms() - number * 1_000)
    await eventually(lambda: len(runtime.loaded) > 10)
    await asyncio.sleep(0.3)
    newest = {f"m{number:02}" for number in range(len(runtime.loaded))}
    assert runtime.loaded == newest
    assert len(newest) < 20, "about half of what is free is left for what is asked for"
    told = [decision for decision in await client.explain("m00") if decision.kind == "preload"]
    assert "loaded ahead of demand, into memory that nobody uses" in told[0].summary
    assert _record(mesh, "m00").last_used < _now_ms() - 500, "that it was loaded is no use"


async def test_an_evicted_model_is_loaded_where_there_is_room(mesh: Mesh) -> None:
    runtime = ScriptedRuntime(mesh.socket(), capacity=30 * MIB, size=20 * MIB, loading_timeout_ms=200)
    client = await mesh.add(runtime)
    for name in "ab":
        await client.register(name)
    await client.infer("a")
    await mesh.add(ScriptedRuntime(mesh.socket(), capacity=100 * MIB))
    await mesh.settle()
    await asyncio.sleep(0.5)
    loader = mesh.instances[0].parts.loader
    assert loader is not None
    await loader.load(ModelInfo("b", "test", "", ""), last_used_ms=_now_ms(), urgent=True)
    await eventually(lambda: "a" in mesh.runtimes[1].loaded)
    await eventually(lambda: list(_record(mesh, "a").copies) == [mesh.instances[1].settings.instance_id])
    assert any("loaded elsewhere" in decision.summary for decision in await client.explain("a"))


async def test_an_evicted_model_that_has_a_copy_elsewhere_is_left_at_that(mesh: Mesh) -> None:
    runtime = ScriptedRuntime(mesh.socket(), capacity=30 * MIB, size=20 * MIB, loading_timeout_ms=200)
    client = await mesh.add(runtime)
    await mesh.add(ScriptedRuntime(mesh.socket(), capacity=100 * MIB))
    await mesh.settle()
    for name in "ab":
        await client.register(name)
    for instance in mesh.instances:
        loader = instance.parts.loader
        assert loader is not None
        beside = Company(frozenset(other.settings.instance_id for other in mesh.instances))
        await loader.load(ModelInfo("a", "test", "", ""), last_used_ms=1, urgent=True, company=beside)
    await asyncio.sleep(0.5)
    loader = mesh.instances[0].parts.loader
    assert loader is not None
    await loader.load(ModelInfo("b", "test", "", ""), last_used_ms=_now_ms(), urgent=True)
    await eventually(lambda: list(_record(mesh, "a").copies) == [mesh.instances[1].settings.instance_id])
    await asyncio.sleep(0.1)
    assert not any(decision.kind == "move" for decision in await client.explain("a"))


async def test_a_failure_goes_with_its_model_also_where_another_comes_at_once(mesh: Mesh) -> None:
    # What an instance sees that was away while a model was deleted and registered again.
    client = await mesh.add()
    mesh.runtimes[0].refuse["m"] = (grpc.StatusCode.INTERNAL, "no luck")
    await client.register("m", load=True, sync=True)
    await eventually(lambda: _record(mesh, "m").failures)
    mesh.runtimes[0].refuse.clear()
    await mesh.instances[0].registry.models.update("m", lambda _: ModelRecord(type="test"))
    await eventually(lambda: not _record(mesh, "m").failures)
    assert await client.infer("m") == b"m:x"
