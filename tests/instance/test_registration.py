"""What an instance writes about its copies while the registry is away, and what it says of it."""

import asyncio
import time

import pytest

from mesh.instance.registration import Registration
from mesh.registry import Keys, MemoryCluster, ModelRecord, NotAdded, Registry, SessionState
from tests.instance.meshes import eventually


def _registration(registry: Registry) -> Registration:
    return Registration(registry, "one", lambda _: True, lambda _: False, lambda: time.time_ns() // 1_000_000)


@pytest.fixture
async def cluster() -> MemoryCluster:
    return MemoryCluster()


async def test_a_load_is_refused_at_once_when_the_registry_has_been_away_for_long(
    cluster: MemoryCluster,
) -> None:
    registry = Registry(cluster.client(), Keys("tests"), "one", session_ttl=0.5, keep_alive_every=0.1)
    await registry.start(10)
    await registry.models.update("m", lambda _: ModelRecord())
    registration = _registration(registry)
    cluster.stop()
    await eventually(lambda: registry.session.state is SessionState.LOST)
    # Well before a write to the registry would be given up.
    async with asyncio.timeout(3):
        refusals = await asyncio.gather(*(registration.add_copy("m", 0) for _ in range(20)))
    assert all(refusal and "the registry is away" in refusal.message for refusal in refusals)
    cluster.start()
    await eventually(lambda: registry.session.state is SessionState.LIVE)
    assert await registration.add_copy("m", 0) is None
    assert "one" in registry.models["m"].copies
    await registration.close()
    await registry.close()


async def test_a_session_that_was_lost_for_a_moment_refuses_nothing(cluster: MemoryCluster) -> None:
    registry = Registry(cluster.client(), Keys("tests"), "one", session_ttl=5, keep_alive_every=0.1)
    await registry.start(10)
    await registry.models.update("m", lambda _: ModelRecord())
    registration = _registration(registry)
    asked: list[asyncio.Task[NotAdded | None]] = []

    def lost(state: SessionState) -> None:
        if state is SessionState.LOST:
            asked.append(asyncio.create_task(registration.add_copy("m", 0)))

    end = registry.session.subscribe(lost)
    await cluster.client().revoke(registry.session.lease)
    await eventually(lambda: asked)
    assert await asked[0] is None
    end()
    await registration.close()
    await registry.close()
