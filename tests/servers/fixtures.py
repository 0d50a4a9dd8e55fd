"""Fixtures of real servers, for every test folder."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest

from tests.servers import azure as azure_server
from tests.servers import chromium as chromium_browser
from tests.servers import etcd as etcd_server
from tests.servers import gcs as gcs_server
from tests.servers import helm as helm
from tests.servers import kafka as kafka_server
from tests.servers import kubernetes as kubernetes_server
from tests.servers import mlserver as ml_server
from tests.servers import prometheus as prometheus_server
from tests.servers import registry as oci_registry
from tests.servers import s3 as s3_server
from tests.servers import triton as triton_server
from tests.servers.azure import AzureServer
from tests.servers.cache import Recipe, ServerUnavailableError
from tests.servers.etcd import EtcdCluster, EtcdServer, RootUser
from tests.servers.gcs import GcsServer
from tests.servers.kafka import KafkaBroker
from tests.servers.kubernetes import ControlPlane
from tests.servers.mlserver import MLServer
from tests.servers.registry import OciRegistry
from tests.servers.s3 import S3Server
from tests.servers.tls import Certificates
from tests.servers.triton import TritonServer

# The fixtures below that stand for an installed program. Before the first test, those that the chosen tests
# use are installed: an installation takes longer than any test may.
PROGRAMS: dict[str, Callable[[], Recipe]] = {
    "azure_program": azure_server.recipe,
    "chromium_program": chromium_browser.recipe,
    "etcd_program": etcd_server.recipe,
    "gcs_program": gcs_server.recipe,
    "kafka_program": kafka_server.recipe,
    "helm_program": helm.recipe,
    "kubernetes_program": kubernetes_server.recipe,
    "mlserver_program": ml_server.recipe,
    "prometheus_program": prometheus_server.recipe,
    "registry_program": oci_registry.recipe,
    "s3_program": s3_server.recipe,
    "triton_program": triton_server.recipe,
}
_installed: dict[str, Path | ServerUnavailableError] = {}
_running_test: pytest.Item | None = None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Installs what the chosen tests need."""
    if session.config.option.collectonly:
        return
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    used = {name for item in session.items for name in getattr(item, "fixturenames", ())}

    def announce(message: str) -> None:
        # In one piece, for others announce at the same time.
        (terminal.write if terminal else print)(f"{message}\n")

    # Some of it is downloading and some is compiling.
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _install(name, announce), PROGRAMS.keys() & used))


def _install(name: str, announce: Callable[[str], None]) -> None:
    try:
        _installed[name] = PROGRAMS[name]().provision(announce)
    except ServerUnavailableError as error:
        _installed[name] = error


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> None:
    """Installs what a test asked for by name while it runs, which could not be seen before; without its deadline."""
    name = fixturedef.argname
    if name in PROGRAMS and name not in _installed:
        request.config.hook.pytest_timeout_cancel_timer(item=_running_test)
        _install(name, print)


def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Remembers the test that runs."""
    global _running_test  # noqa: PLW0603 - pytest tells a session's fixture nothing of the test that asks for it
    _running_test = item


def _program(name: str) -> Path:
    found = _installed[name]
    if isinstance(found, ServerUnavailableError):
        pytest.skip(str(found))
    return found


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority with a certificate for a server on loopback and one for a client."""
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def ram_folder() -> Iterator[Path]:
    """A folder in memory, where the machine has such a disk."""
    shared_memory = Path("/dev/shm")
    folder = Path(
        tempfile.mkdtemp(prefix="mesh-test-", dir=shared_memory if shared_memory.is_dir() else None)
    )
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def chromium_program() -> None:
    """A Chromium on this machine, for :func:`tests.servers.chromium.open_tab`."""
    _program("chromium_program")


@pytest.fixture(scope="session")
def etcd_program() -> Path:
    """The folder with the program ``etcd``."""
    return _program("etcd_program")


class MakeEtcd(Protocol):
    """Makes and starts an etcd that ends with the test."""

    def __call__(
        self,
        *,
        certificates: Certificates | None = None,
        require_client_certificate: bool = False,
        root_user: RootUser | None = None,
    ) -> EtcdServer:
        """See :class:`EtcdServer` for the arguments."""
        ...


@pytest.fixture
def make_etcd(etcd_program: Path, ram_folder: Path) -> Iterator[MakeEtcd]:
    """Makes started etcd servers, each with the test's own data."""
    made: list[EtcdServer] = []

    def make(
        *,
        certificates: Certificates | None = None,
        require_client_certificate: bool = False,
        root_user: RootUser | None = None,
    ) -> EtcdServer:
        server = EtcdServer(
            etcd_program,
            ram_folder / f"etcd-{len(made)}",
            certificates=certificates,
            require_client_certificate=require_client_certificate,
            root_user=root_user,
        )
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        if server.process.running:
            server.kill()


@pytest.fixture
def etcd(make_etcd: MakeEtcd) -> EtcdServer:
    """An empty etcd of the test's own, free to be killed, paused and restarted."""
    return make_etcd()


@pytest.fixture
def etcd_cluster(etcd_program: Path, ram_folder: Path) -> Iterator[EtcdCluster]:
    """Three etcd members of the test's own."""
    cluster = EtcdCluster(etcd_program, ram_folder)
    cluster.start()
    yield cluster
    for member in cluster.members:
        if member.process.running:
            member.kill()


@pytest.fixture(scope="module")
def shared_etcd(etcd_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One etcd for the tests of a module that leave it running and keep to keys of their own."""
    server = EtcdServer(etcd_program, tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def s3_program() -> Path:
    """The folder with the program ``versitygw``."""
    return _program("s3_program")


@pytest.fixture
def s3(s3_program: Path, tmp_path: Path) -> Iterator[S3Server]:
    """A started S3 server without buckets, of the test's own."""
    server = S3Server(s3_program, tmp_path / "s3")
    server.start()
    yield server
    server.process.kill()


@pytest.fixture(scope="session")
def gcs_program() -> Path:
    """The folder with the program ``fake-gcs-server``."""
    return _program("gcs_program")


@pytest.fixture(scope="module")
def gcs(gcs_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """A started Google Cloud Storage without buckets, one for the tests of a module."""
    server = GcsServer(gcs_program, tmp_path_factory.mktemp("gcs"))
    server.start()
    yield server
    server.process.kill()


@pytest.fixture(scope="session")
def kafka_program() -> Path:
    """The folder with Kafka's jars."""
    return _program("kafka_program")


@pytest.fixture(scope="session")
def kafka(
    kafka_program: Path, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaBroker]:
    """A started Kafka broker, one for all tests, each with topics of its own: it takes long to start."""
    broker = KafkaBroker(kafka_program, tmp_path_factory.mktemp("kafka"), certificates)
    broker.start()
    yield broker
    broker.process.kill()


@pytest.fixture(scope="session")
def registry_program() -> Path:
    """The folder with the program ``crane``."""
    return _program("registry_program")


@pytest.fixture(scope="module")
def registry(registry_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OciRegistry]:
    """A started registry of images, one for the tests of a module."""
    server = OciRegistry(registry_program, tmp_path_factory.mktemp("registry"))
    server.start()
    yield server
    server.process.kill()


@pytest.fixture(scope="session")
def azure_program() -> Path:
    """The folder with Azurite."""
    return _program("azure_program")


@pytest.fixture(scope="session")
def azure(azure_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """A started Azure Blob Storage without containers, one for the tests of a module."""
    server = AzureServer(azure_program, tmp_path_factory.mktemp("azure"))
    server.start()
    yield server
    server.process.kill()


@pytest.fixture(scope="session")
def mlserver_program() -> Path:
    """The folder with MLServer's environment."""
    return _program("mlserver_program")


@pytest.fixture(scope="module")
def mlserver(mlserver_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLServer]:
    """A started MLServer, one for the tests of a module: each names its models apart and may restart it."""
    server = MLServer(mlserver_program, tmp_path_factory.mktemp("mlserver"))
    server.start()
    yield server
    server.process.kill()


@pytest.fixture(scope="session")
def prometheus_program() -> Path:
    """The folder with the programs ``prometheus`` and ``promtool``."""
    return _program("prometheus_program")


@pytest.fixture(scope="session")
def triton_program() -> Path:
    """The folder with Triton's environment and backends."""
    return _program("triton_program")


@pytest.fixture(scope="module")
def triton(triton_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A started Triton, one for the tests of a module: each names its models apart and may restart it."""
    server = TritonServer(triton_program, tmp_path_factory.mktemp("triton"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def helm_program() -> Path:
    """The folder with Helm."""
    return _program("helm_program")


@pytest.fixture(scope="session")
def kubernetes_program() -> Path:
    """The folder with the Kubernetes control plane."""
    return _program("kubernetes_program")


@pytest.fixture(scope="session")
def cluster(kubernetes_program: Path) -> Iterator[ControlPlane]:
    """A Kubernetes cluster with fake nodes, one for all tests: each uses a namespace of its own."""
    shared_memory = Path("/dev/shm")
    folder = Path(
        tempfile.mkdtemp(prefix="mesh-kube-", dir=shared_memory if shared_memory.is_dir() else None)
    )
    plane = ControlPlane(kubernetes_program, folder)
    try:
        plane.start(fake_nodes=2)
        yield plane
    finally:
        plane.stop()
        shutil.rmtree(folder, ignore_errors=True)
