"""Instances of the mesh with a registry and null runtimes, as subjects and for measurements of their own."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from tests.servers.etcd import EtcdServer
from tests.servers.etcd import recipe as etcd_recipe
from tests.servers.process import ServerProcess, free_port, http_ok

from bench.rig import Rig
from bench.rivals import start_backend
from bench.windows import Starter, Subject, generate
from mesh.protos import etcd_rpc_pb2 as etcd
from mesh.protos import etcd_rpc_pb2_grpc as etcd_grpc
from mesh.registry import Keys

#: etcd refuses larger transactions.
PUTS_PER_TRANSACTION = 128
MODELS = 20
#: The ``mesh`` command without its script, which an environment that runs from the sources may not have.
ENTRY_POINT = "from mesh.cli import main; main()"


@dataclass(frozen=True)
class Instance:
    """One ``mesh serve`` and the null runtime beside it."""

    process: ServerProcess
    runtime: ServerProcess
    target: str
    #: Seconds from its start until ``/ready`` answered 200.
    ready_after: float
    #: Where Prometheus scrapes, on loopback.
    metrics_port: int


class Cluster:
    """A registry in a real etcd, and instances that share it."""

    def __init__(self, rig: Rig, tools: Path) -> None:
        """Starts the etcd, on no core of its own."""
        self.rig = rig
        self.tools = tools
        self.etcd = EtcdServer(etcd_recipe().provision(print), rig.memory_directory() / "etcd")
        self.etcd.start()
        rig.favour(self.etcd.process.pid)
        rig.on_exit(self.etcd.kill)
        self._instances = 0

    def start(
        self,
        service: str,
        *,
        core: int | None,
        metrics: str = "",
        runtime: Sequence[str] = (),
        within: float = 120,
        settings: Mapping[str, str] | None = None,
    ) -> Instance:
        """Starts an instance and waits until it is ready.

        Args:
            service: Name of the mesh that it joins.
            core: The one core that it may use, if it is to be held to one; its runtime has the load's then.
            metrics: Further options of ``MM_METRICS``.
            runtime: Further options of its null runtime.
            within: Seconds that it may take to get ready.
            settings: Further environment variables.
        """
        self._instances += 1
        backend, where = start_backend(self.rig, self.tools, *runtime, anywhere=core is None)
        port, probe, scraped = free_port(), free_port(), free_port()
        env = {
            "MM_SERVICE_NAME": service,
            # What is measured is one copy, where the subject says; the load would bring further ones.
            "MM_SCALEUP_RPM_THRESHOLD": "1000000000",
            "MESH_SCALEUP_IN_FLIGHT": "0",
            "MESH_REBALANCE": "false",
            "KV_STORE": self.etcd.kv_store,
            "MM_SVC_GRPC_PORT": str(port),
            "INTERNAL_GRPC_PORT": where.rsplit(":", 1)[1],
            "MM_PEER_PORT": str(free_port()),
            "MM_PROBE_PORT": str(probe),
            "MM_PRESTOP_WAIT_PORT": "NONE",
            "MM_METRICS": f"prometheus:port={scraped};scheme=http{metrics}",
            "WKUBE_POD_NAME": f"instance-{self._instances:03}",
            "WKUBE_POD_IPADDR": "127.0.0.1",
            **(settings or {}),
        }
        started = time.monotonic()
        process = self.rig.start("mesh", [sys.executable, "-c", ENTRY_POINT, "serve"], core=core, env=env)
        process.wait_until(lambda: http_ok(f"http://127.0.0.1:{probe}/ready"), within)
        return Instance(process, backend, f"127.0.0.1:{port}", time.monotonic() - started, scraped)

    def stop(self, instance: Instance) -> None:
        """Ends an instance and its runtime."""
        instance.process.stop()
        instance.runtime.stop()

    def stock(self, service: str, models: int, prefix: str = "stock-") -> None:
        """Writes records of registered models straight into the registry."""
        asyncio.run(self._stock(Keys(service), models, prefix))

    async def _stock(self, keys: Keys, models: int, prefix: str) -> None:
        now = time.time_ns() // 1_000_000
        record = json.dumps({"type": "bench", "mPath": "bench", "lu": now}).encode()
        async with grpc.aio.insecure_channel(self.etcd.endpoint.removeprefix("http://")) as channel:
            kv = etcd_grpc.KVStub(channel)
            for first in range(0, models, PUTS_PER_TRANSACTION):
                puts = [
                    etcd.RequestOp(
                        request_put=etcd.PutRequest(key=f"{keys.models}{prefix}{n}".encode(), value=record)
                    )
                    for n in range(first, min(first + PUTS_PER_TRANSACTION, models))
                ]
                await kv.Txn(etcd.TxnRequest(success=puts), timeout=30)

    def load(self, instance: Instance, models: int, prefix: str) -> None:
        """Registers models through the management API and waits until they are loaded.

        Raises:
            FailedLoadError: The mesh refused one.
        """
        of_models = (f"--model={prefix}", f"--models={models}", f"--count={models}", "--seconds=120")
        for kind in ("register", "ensure"):
            report = generate(
                self.tools,
                self.rig.placed(None),
                f"--target={instance.target}",
                f"--kind={kind}",
                "--sync",
                *of_models,
            )
            if report["errors"] or report["ok"] != models:
                raise FailedLoadError(f"{kind} {prefix}: {report}")


class FailedLoadError(Exception):
    """Models could not be loaded before a measurement."""


def meshes(rig: Rig, tools: Path) -> dict[str, Starter]:
    """Starters of a local copy, of one with per-model metrics, and of a copy on another instance, by name."""
    shared: list[Cluster] = []

    def cluster() -> Cluster:
        if not shared:
            shared.append(Cluster(rig, tools))
        return shared[0]

    def local(name: str, service: str, metrics: str = "") -> Starter:
        def starter() -> Subject:
            one = cluster().start(service, core=rig.proxy_core, metrics=metrics)
            cluster().load(one, MODELS, "m")
            return Subject(name, one.target, (one.process.pid,), (one.runtime.pid,))

        return starter

    def forwarded() -> Subject:
        # The first instance loads the models while it is alone, so that the second has to go to it.
        owner = cluster().start("two", core=rig.proxy_core)
        cluster().load(owner, MODELS, "m")
        entry = cluster().start("two", core=rig.proxy_core)
        proxies, runtimes = (owner.process.pid, entry.process.pid), (owner.runtime.pid, entry.runtime.pid)
        return Subject("mesh, forwarded", entry.target, proxies, runtimes)

    metrics = "mesh, local, per-model metrics"
    return {
        "mesh, local": local("mesh, local", "one"),
        metrics: local(metrics, "metrics", ";per_model_metrics=true"),
        "mesh, forwarded": forwarded,
    }
