"""``mesh controller`` as a process of its own."""

import sys
import urllib.request
from pathlib import Path

from tests.servers.kubernetes import ControlPlane
from tests.servers.process import ServerProcess, free_port, http_ok

_ROOT = Path(__file__).parents[2]


class ControllerProcess:
    """One ``mesh controller`` of a namespace; it is started at once."""

    def __init__(
        self,
        cluster: ControlPlane,
        namespace: str,
        folder: Path,
        *arguments: str,
        name: str = "c",
        **environment: str,
    ) -> None:
        self._probes, self._metrics = free_port(), free_port()
        self.process = ServerProcess(
            f"controller {name}",
            [
                sys.executable,
                "-c",
                "from mesh.cli import main; main()",
                "controller",
                f"--health-probe-bind-address=127.0.0.1:{self._probes}",
                f"--metrics-addr=127.0.0.1:{self._metrics}",
                *arguments,
            ],
            log=folder / f"controller-{name}.log",
            env={
                "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}",
                "KUBECONFIG": str(cluster.kubeconfig),
                "NAMESPACE": namespace,
                "NAMESPACE_SCOPE": "true",
                "POD_NAME": f"modelmesh-controller-{name}-0",
                **environment,
            },
        )
        self.process.start()

    def wait_until_ready(self) -> None:
        """Waits until it has seen the cluster, as its probe says."""
        self.process.wait_until(lambda: http_ok(f"http://127.0.0.1:{self._probes}/readyz"), 30)

    @property
    def leads(self) -> bool:
        """As its metrics say."""
        return self.metric("modelmesh_controller_leads") == 1

    def metric(self, series: str) -> float:
        """The value of a series, 0 where there is none; for example ``name{label="value"}``."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=5) as answer:
            lines = str(answer.read().decode()).splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{series} ")), 0.0)
