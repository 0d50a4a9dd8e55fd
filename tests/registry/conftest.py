"""Each test of the store's interface runs against both stores, etcd for real."""

from collections.abc import AsyncIterator

import pytest

from mesh.registry import Store
from tests.registry.worlds import EtcdWorld, MemoryWorld, World


@pytest.fixture(params=["memory", "etcd"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made: World = (
        MemoryWorld() if request.param == "memory" else EtcdWorld(request.getfixturevalue("shared_etcd"))
    )
    yield made
    await made.close()


@pytest.fixture
async def store(world: World) -> Store:
    return world.client()
