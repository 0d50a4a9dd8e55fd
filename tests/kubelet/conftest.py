"""One cluster for the tests of this folder."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubelet.installation import Installation, Namespace
from tests.kubelet.network import NoNetworkError


@pytest.fixture(scope="package")
def installation(kubernetes_program: Path, etcd_program: Path, s3_program: Path) -> Iterator[Installation]:
    """A cluster whose pods run, with the mesh installed."""
    if os.geteuid():
        pytest.skip("pods as processes have networks and roots of their own: run the tests as root")
    shared_memory = Path("/dev/shm")
    folder = Path(
        tempfile.mkdtemp(prefix="mesh-kubelet-", dir=shared_memory if shared_memory.is_dir() else None)
    )
    try:
        try:
            installed = Installation(kubernetes_program, etcd_program, s3_program, folder)
        except NoNetworkError as problem:
            pytest.skip(f"pods as processes need networks of their own: {problem}")
        try:
            installed.start()
            yield installed
        finally:
            installed.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def namespace(installation: Installation) -> Iterator[Namespace]:
    """A namespace of the test's own, with a mesh."""
    made = Namespace(installation, f"user-{uuid.uuid4().hex[:6]}")
    yield made
    installation.plane.kubectl("delete", "namespace", made.name, "--wait=false")
