from collections.abc import AsyncIterator

import grpc.aio
import pytest

from tests.dataplane.harness import Plane, channel, planes
from tests.dataplane.runtime import Runtime


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with Runtime() as started:
        yield started


@pytest.fixture
async def plane(runtime: Runtime) -> AsyncIterator[Plane]:
    """A data plane with a copy of the model ``m`` at the local runtime."""
    async with planes() as (made,):
        made.plane.set_route("m", [made.runtime(runtime.address)])
        yield made


@pytest.fixture
async def client(plane: Plane) -> AsyncIterator[grpc.aio.Channel]:
    async with channel(plane.clients) as made:
        yield made
