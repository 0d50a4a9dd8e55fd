"""Meshes for tests as users run them: ``mesh serve`` processes over a real etcd, each beside its model server."""

import itertools
import os
import sys
from pathlib import Path

from tests.instance.meshes import Client
from tests.servers.process import ServerProcess, free_port, http_ok

_ROOT = Path(__file__).parents[2]


class InstanceProcess:
    """One ``mesh serve`` and the model server beside it."""

    _numbers = itertools.count()

    def __init__(self, kv_store: str, folder: Path, **environment: str) -> None:
        number = next(self._numbers)
        self.folder = folder / f"instance-{number}"
        self.folder.mkdir()
        socket = self.folder / "runtime.sock"
        self.port, self.probe_port, self.metrics_port = free_port(), free_port(), free_port()
        self.prestop_port, peer_port = free_port(), free_port()
        self.peer_address = f"127.0.0.1:{peer_port}"
        self.instance_id = f"test-{number:05}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MM_")},
            "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}",
            "MM_SERVICE_NAME": "tests",
            "KV_STORE": kv_store,
            "WKUBE_POD_NAME": self.instance_id,
            "WKUBE_POD_IPADDR": "127.0.0.1",
            "MM_BIND_ADDRESS": "127.0.0.1",
            "MM_SVC_GRPC_PORT": str(self.port),
            "MM_PEER_PORT": str(peer_port),
            "MM_PROBE_PORT": str(self.probe_port),
            "MM_PRESTOP_WAIT_PORT": str(self.prestop_port),
            "MM_METRICS": f"prometheus:port={self.metrics_port};scheme=http",
            "INTERNAL_GRPC_SOCKET_PATH": str(socket),
            "MESH_MIN_CHURN_AGE_MS": "0",
            "LL_TERMINATION_MSG_PATH": str(self.folder / "termination-log"),
            **environment,
        }
        self.runtime = ServerProcess(
            f"runtime of {self.instance_id}",
            [sys.executable, "-m", "tests.instance.scripted_runtime", str(socket)],
            log=self.folder / "runtime.log",
            env=self._environment,
        )
        self.mesh = ServerProcess(
            self.instance_id,
            [sys.executable, "-c", "from mesh.cli import main; main()", "serve"],
            log=self.folder / "mesh.log",
            env=self._environment,
        )

    def start(self) -> None:
        """Starts both; returns at once."""
        self.runtime.start()
        self.mesh.start()

    def wait_until_ready(self, within: float = 30.0) -> None:
        self.mesh.wait_until(lambda: http_ok(f"http://127.0.0.1:{self.probe_port}/ready"), within)

    def client(self) -> Client:
        return Client(f"127.0.0.1:{self.port}")

    def stop(self) -> None:
        """Ends what still runs."""
        for process in (self.mesh, self.runtime):
            if process.running:
                process.kill()
