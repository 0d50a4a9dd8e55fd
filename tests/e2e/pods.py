"""Pods as users run them: ``mesh serve`` beside a real model server, over a real registry and real storage."""

import itertools
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc

from mesh.protos import inference_pb2
from mesh.protos.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.adapters.samples import Sample
from tests.instance.processes import InstanceProcess
from tests.servers.etcd import EtcdServer
from tests.servers.mlserver import MLServer
from tests.servers.process import ServerProcess, free_port
from tests.servers.s3 import S3Server
from tests.servers.triton import TritonServer

ROOT = Path(__file__).parents[2]
BUCKET = "models"
#: Seconds that a pod may take to get ready on a busy machine.
START_S = 100.0


class Storage:
    """A bucket in S3, a volume claim and a directory of the host, with the secrets that lead there."""

    def __init__(self, s3: S3Server, folder: Path) -> None:
        self.s3 = s3
        self.secrets = folder / "secrets"
        self.claims = folder / "claims"
        self.claim = self.claims / "claim"
        self.local = folder / "local"
        for place in (self.secrets, self.claim, self.local):
            place.mkdir(parents=True)
        s3.create_bucket(BUCKET)
        self.secret("minio", s3.storage_config(default_bucket=BUCKET))
        self.secret("wrong-secret", s3.storage_config(default_bucket=BUCKET) | {"secret_access_key": "wrong"})
        nowhere = f"http://127.0.0.1:{free_port()}"
        self.secret("nowhere", s3.storage_config(default_bucket=BUCKET) | {"endpoint_url": nowhere})

    def secret(self, name: str, content: dict[str, str]) -> None:
        (self.secrets / name).write_text(json.dumps(content))

    def put(self, sample: Sample, folder: str) -> str:
        """Stores a sample in the bucket and returns its path there."""
        self.s3.put(BUCKET, {f"{folder}/{sample.file}": sample.path.read_bytes()})
        return f"{folder}/{sample.file}"

    def environment(self, root: Path) -> dict[str, str]:
        """What tells an instance to pull from here into ``root``."""
        return {
            "USE_EMBEDDED_PULLER": "true",
            "ROOT_MODEL_DIR": str(root),
            "STORAGE_CONFIG_DIR": str(self.secrets),
            "PVC_MOUNTS_DIR": str(self.claims),
            "MESH_LOCAL_MODEL_DIRS": str(self.local),
        }


class Server(ABC):
    """A model server of a pod.

    Attributes:
        root: the directory of models that it shares with its instance.
    """

    root: Path

    @property
    @abstractmethod
    def process(self) -> ServerProcess:
        """Runs it."""

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """What tells the instance where it is and how large."""

    def stop(self) -> None:
        """Ends it."""
        if self.process.running:
            self.process.kill()


class RepositoryServer(Server):
    """MLServer or Triton, behind the mesh's adapter."""

    def __init__(self, server: MLServer | TritonServer, adapter: str, capacity: int) -> None:
        self.server = server
        self.root = server.models.parent
        self._adapter = adapter
        self._capacity = capacity

    @property
    def process(self) -> ServerProcess:
        return self.server.process

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MESH_ADAPTER": self._adapter,
            "RUNTIME_PORT": str(self.server.grpc_port),
            "CONTAINER_MEM_REQ_BYTES": str(self._capacity),
            "MEM_BUFFER_BYTES": "0",
            "DEFAULT_MODELSIZE": "16384",
            "LOADTIME_TIMEOUT": "90000",
        }

    def ready_models(self) -> set[str]:
        """The models that the server has, by its own repository index."""
        with grpc.insecure_channel(self.server.endpoint) as channel:
            stub: Any = GRPCInferenceServiceStub(channel)  # type: ignore[arg-type] # typed for asyncio only
            index = stub.RepositoryIndex(inference_pb2.RepositoryIndexRequest(ready=True), timeout=30)
        return {model.name for model in index.models}

    def stop(self) -> None:
        if isinstance(self.server, TritonServer):
            self.server.kill()
        else:
            super().stop()


class SocketServer(Server):
    """A runtime that speaks ``mmesh.ModelRuntime`` on a unix socket."""

    def __init__(self, program: Sequence[str], capacity: str, folder: Path) -> None:
        self.root = folder / "models"
        self.root.mkdir()
        self._socket = folder / "server.sock"
        options = ["--socket", str(self._socket), "--capacity", capacity, "--default-model-size", "16384"]
        self._process = ServerProcess(
            "runtime",
            [sys.executable, *program, *options],
            folder / "server.log",
            env={"PYTHONPATH": str(ROOT / "src")},
        )

    @property
    def process(self) -> ServerProcess:
        return self._process

    @property
    def environment(self) -> dict[str, str]:
        return {"INTERNAL_GRPC_SOCKET_PATH": str(self._socket)}


class Pod:
    """One instance, beside a model server where it is no pure router."""

    def __init__(self, server: Server | None, instance: InstanceProcess) -> None:
        self.server = server
        self.instance = instance
        self.address = f"127.0.0.1:{instance.port}"

    @property
    def repository(self) -> RepositoryServer:
        """The server, of which the models can be listed."""
        assert isinstance(self.server, RepositoryServer)
        return self.server

    @property
    def root(self) -> Path:
        """Where the pod has its models."""
        assert self.server is not None
        return self.server.root

    def pulled(self) -> set[str]:
        """The models whose data is in the pod."""
        return {marker.parent.name for marker in self.root.glob("*/.mesh-pulled")}

    def start(self) -> None:
        """Starts both at once, as Kubernetes does."""
        if self.server is not None:
            self.server.process.start()
        self.instance.mesh.start()

    def wait_until_ready(self) -> None:
        self.instance.wait_until_ready(START_S)

    def stop(self) -> None:
        self.instance.stop()
        if self.server is not None:
            self.server.stop()


class Pods:
    """Makes meshes of pods, all over one registry and one storage."""

    _numbers = itertools.count()

    def __init__(self, etcd: EtcdServer, storage: Storage, folder: Path) -> None:
        self._etcd = etcd
        self._folder = folder
        self.storage = storage

    @contextmanager
    def running(
        self, *servers: Callable[[Path], Server] | None, environments: Sequence[dict[str, str]] = ()
    ) -> Iterator[list[Pod]]:
        """A mesh with a pod for each server, and a pure router for each None.

        Args:
            servers: each makes its server in the folder that it is given.
            environments: more variables, of the pod at the same place in ``servers``.
        """
        number = next(self._numbers)
        pods = []
        with ExitStack() as stack:
            for place, (make, more) in enumerate(
                itertools.zip_longest(servers, environments, fillvalue=None)
            ):
                folder = self._folder / f"mesh-{number}-{place}"
                folder.mkdir()
                server = make(folder) if callable(make) else None
                if server is None:
                    environment = {"MESH_ADAPTER": "none"}
                else:
                    environment = self.storage.environment(server.root) | server.environment
                environment |= {
                    "MM_SERVICE_NAME": f"mesh-{number}",
                    **(more if isinstance(more, dict) else {}),
                }
                pod = Pod(server, InstanceProcess(self._etcd.kv_store, folder, **environment))
                stack.callback(pod.stop)
                pod.start()
                pods.append(pod)
            for pod in pods:
                pod.wait_until_ready()
            yield pods


def mlserver(program: Path, capacity: int) -> Callable[[Path], Server]:
    return lambda folder: RepositoryServer(MLServer(program, folder), "mlserver", capacity)


def triton(program: Path, capacity: int) -> Callable[[Path], Server]:
    return lambda folder: RepositoryServer(TritonServer(program, folder), "triton", capacity)


def builtin(capacity: str) -> Callable[[Path], Server]:
    return lambda folder: SocketServer(["-m", "mesh.runtimes.builtin"], capacity, folder)


def custom(capacity: str) -> Callable[[Path], Server]:
    return lambda folder: SocketServer([str(ROOT / "examples" / "custom_runtime.py")], capacity, folder)
