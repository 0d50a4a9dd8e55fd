import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.controller.stage import Stage, define_kinds
from tests.servers.kubernetes import ControlPlane


@pytest.fixture(scope="session")
def defined(cluster: ControlPlane) -> ControlPlane:
    """The cluster, with the kinds that the controller serves."""
    define_kinds(cluster)
    return cluster


@pytest.fixture
def namespace(defined: ControlPlane) -> str:
    """A namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    defined.call("POST", "/api/v1/namespaces", body)
    return name


@pytest_asyncio.fixture
async def stage(defined: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """A namespace with all that a controller needs before it starts."""
    async with Stage(defined, namespace, tmp_path) as stage:
        yield stage
