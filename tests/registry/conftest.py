"""Each test of the store's interface runs against both stores, etcd for real."""

from collections.abc import AsyncIterator
from functools import partial

import pytest

from mesh.instance import Channels
from mesh.registry import Store, open_store
from tests.registry.worlds import Connect, EtcdWorld, MemoryWorld, World


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens stores as an instance does: its calls of an etcd without TLS go through the data plane's client."""
    async with Channels() as channels:
        yield partial(open_store, opener=channels.open)


@pytest.fixture(params=["memory", "etcd"])
async def world(request: pytest.FixtureRequest, connect: Connect) -> AsyncIterator[World]:
    made: World = (
        MemoryWorld()
        if request.param == "memory"
        else EtcdWorld(request.getfixturevalue("shared_etcd"), connect)
    )
    yield made
    await made.close()


@pytest.fixture
async def store(world: World) -> Store:
    return world.client()
