"""One registry, one storage and one mesh of each kind, for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import pods
from tests.e2e.pods import Pod, Pods, Storage
from tests.servers.etcd import EtcdServer
from tests.servers.s3 import S3Server

#: Three copies of the scikit-learn sample fit: 344,817 bytes x 1.25 each, in units of 8 KiB.
MLSERVER_CAPACITY = 1_400_000
TRITON_CAPACITY = 64 << 20

DATAPLANE_CONFIG = """{
    "rpcConfigs": {"inference.GRPCInferenceService/ModelInfer": {"idExtractionPath": [1]}},
    "allowOtherRpcs": true
}"""


@pytest.fixture(scope="package")
def registry(etcd_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(etcd_program, tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="package")
def storage(s3_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    folder = tmp_path_factory.mktemp("storage")
    server = S3Server(s3_program, folder / "s3")
    server.start()
    yield Storage(server, folder)
    server.process.kill()


@pytest.fixture(scope="package")
def make_pods(registry: EtcdServer, storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Pods:
    return Pods(registry, storage, tmp_path_factory.mktemp("pods"))


@pytest.fixture(scope="package")
def mlserver_mesh(make_pods: Pods, mlserver_program: Path) -> Iterator[list[Pod]]:
    """Two pods, each with an MLServer that is full with three models."""
    make = pods.mlserver(mlserver_program, MLSERVER_CAPACITY)
    with make_pods.running(make, make) as running:
        yield running


@pytest.fixture(scope="package")
def builtin_mesh(make_pods: Pods) -> Iterator[list[Pod]]:
    """Two pods with the built-in runtime and a pure router that finds the id in the message, too."""
    make = pods.builtin("1536KiB")
    extracting = {"MM_DATAPLANE_CONFIG": DATAPLANE_CONFIG}
    with make_pods.running(make, make, None, environments=[{}, extracting, extracting]) as running:
        yield running


@pytest.fixture(scope="package")
def triton_mesh(make_pods: Pods, triton_program: Path) -> Iterator[list[Pod]]:
    """A pod with a Triton and a pure router."""
    with make_pods.running(pods.triton(triton_program, TRITON_CAPACITY), None) as running:
        yield running
