"""What is remembered of the registry in a file, and what becomes of it once the store is there."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.registry import (
    MODELS,
    InstanceRecord,
    InvalidSnapshot,
    Keys,
    MemoryCluster,
    Mirror,
    ModelRecord,
    Registry,
    SnapshotFile,
)
from tests.instance.meshes import eventually


def _registry(cluster: MemoryCluster, path: Path, name: str = "one", service: str = "tests") -> Registry:
    return Registry(cluster.client(), Keys(service), name, snapshot=path)


async def _taken(cluster: MemoryCluster, path: Path, models: dict[str, ModelRecord]) -> None:
    registry = _registry(cluster, path)
    await registry.start(10)
    for model_id, record in models.items():
        await registry.models.update(model_id, lambda _, record=record: record)  # type: ignore[misc]
    await registry.publish(InstanceRecord(endpoint="1.2.3.4:5"))
    assert registry.snapshot is not None
    await eventually(lambda: "one" in registry.instances)
    await registry.snapshot.write()
    await registry.close()


@given(
    models=st.dictionaries(
        st.text(min_size=1),
        st.builds(ModelRecord, path=st.text(), key=st.text(), last_used=st.integers(0, 2**50)),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_is_written_is_what_is_read(tmp_path: Path, models: dict[str, ModelRecord]) -> None:
    async def go() -> None:
        mirror: Mirror[ModelRecord] = Mirror(MemoryCluster().client(), "/models/", MODELS)
        file = SnapshotFile(tmp_path / "snapshot", (mirror,))
        mirror.start()
        await mirror.wait_ready(10)
        for model_id, record in models.items():
            await mirror.update(model_id, lambda _, record=record: record)  # type: ignore[misc]
        await file.write()
        await mirror.close()
        other: Mirror[ModelRecord] = Mirror(MemoryCluster().client(), "/models/", MODELS)
        other.restore(SnapshotFile(tmp_path / "snapshot", (other,)).read().tables["/models/"])
        assert dict(other) == models

    asyncio.run(go())


async def test_a_registry_that_is_away_is_remembered_and_followed_when_it_is_back(tmp_path: Path) -> None:
    path, cluster = tmp_path / "snapshot", MemoryCluster()
    stays, goes = ModelRecord(path="stays"), ModelRecord(path="goes")
    await _taken(cluster, path, {"stays": stays, "goes": goes, "changes": goes})
    cluster.stop()
    registry = _registry(cluster, path)
    seen: list[tuple[str, Any]] = []
    registry.models.subscribe(lambda model_id, _, after: seen.append((model_id, after and after.path)))
    await registry.start(10, remember_after=0.05)
    assert not registry.joined
    assert not registry.models.ready
    assert dict(registry.models) == {"stays": stays, "goes": goes, "changes": goes}
    assert registry.instances["one"].endpoint == "1.2.3.4:5"
    seen.clear()

    cluster.start()
    other = Registry(cluster.client(), Keys("tests"), "two")
    await other.start(10)
    await other.models.update("goes", lambda _: None)
    await other.models.update("changes", lambda _: ModelRecord(path="changed"))
    await other.models.update("new", lambda _: ModelRecord(path="new"))
    await eventually(lambda: registry.joined)
    await eventually(lambda: dict(registry.models) == dict(other.models))
    assert ("goes", None) in seen
    assert ("changes", "changed") in seen
    assert ("stays", "stays") not in seen, "what did not change is not told"
    assert "one" not in registry.instances, "the session of the process before has ended"
    for one in (registry, other):
        await one.close()


async def test_a_registry_that_is_there_is_not_remembered(tmp_path: Path) -> None:
    path, cluster = tmp_path / "snapshot", MemoryCluster()
    await _taken(cluster, path, {"old": ModelRecord()})
    registry = _registry(MemoryCluster(), path)
    await registry.start(10, remember_after=5)
    assert registry.joined
    assert not registry.models
    await registry.close()


async def test_without_a_snapshot_the_start_fails(tmp_path: Path) -> None:
    cluster = MemoryCluster()
    cluster.stop()
    registry = _registry(cluster, tmp_path / "none")
    with pytest.raises(TimeoutError):
        await registry.start(0.1, remember_after=0.05)
    await registry.close()


async def test_an_instance_that_leaves_is_not_remembered(tmp_path: Path) -> None:
    path, cluster = tmp_path / "snapshot", MemoryCluster()
    registry = _registry(cluster, path)
    await registry.start(10)
    await registry.publish(InstanceRecord(endpoint="1.2.3.4:5", shutting_down=True))
    await eventually(lambda: "one" in registry.instances)
    assert registry.snapshot is not None
    await registry.snapshot.write()
    assert not registry.snapshot.read().tables[Keys("tests").instances]
    await registry.close()


async def test_a_file_that_is_damaged_or_of_another_mesh_is_refused(tmp_path: Path) -> None:
    path, cluster = tmp_path / "snapshot", MemoryCluster()
    await _taken(cluster, path, {"m": ModelRecord(path="somewhere")})
    assert path.stat().st_mode & 0o077 == 0, "records are for the mesh alone"
    other = _registry(cluster, path, service="others")
    assert other.snapshot is not None
    with pytest.raises(InvalidSnapshot, match="of another mesh"):
        other.snapshot.read()
    whole = path.read_bytes()
    file = _registry(cluster, path).snapshot
    assert file is not None
    for damaged in (whole[:-1], whole.replace(b"somewhere", b"elsewhere"), b"", b"{}", whole[:20]):
        path.write_bytes(damaged)
        with pytest.raises(InvalidSnapshot):
            file.read()
    path.write_bytes(whole)
    assert file.read().taken_ms > 0


async def test_a_write_that_fails_leaves_the_file_before(tmp_path: Path) -> None:
    path, cluster = tmp_path / "snapshot", MemoryCluster()
    await _taken(cluster, path, {"m": ModelRecord()})
    before = path.read_bytes()
    registry = _registry(cluster, path)
    await registry.start(10)
    await registry.models.update("n", lambda _: ModelRecord())
    new = path.with_name(".snapshot.new")
    new.mkdir()
    assert registry.snapshot is not None
    with pytest.raises(OSError):
        await registry.snapshot.write()
    assert path.read_bytes() == before
    new.rmdir()
    await registry.snapshot.write()
    assert b'"n"' in path.read_bytes()
    await registry.close()
