"""The mesh's data plane alone, as subjects: what its requests cost before an instance is put around it."""

from pathlib import Path

from tests.servers.process import ServerProcess

from bench.rig import Rig, free_address
from bench.rivals import listens, start_backend
from bench.windows import Starter, Subject


def start_plane(rig: Rig, backend: str, *options: str) -> tuple[ServerProcess, str]:
    """Starts a data plane with routes for 20 models."""
    listen = free_address()
    process = rig.python(
        "plane", "bench.plane_proxy", "--listen", listen, "--backend", backend, *options, core=rig.proxy_core
    )
    process.wait_until(lambda: listens(listen))
    return process, listen


def planes(rig: Rig, tools: Path) -> dict[str, Starter]:
    """Starters of a local copy, of one with per-model metrics, and of a copy on another instance, by name."""

    def local(name: str, *options: str) -> Starter:
        def starter() -> Subject:
            backend, where = start_backend(rig, tools)
            plane, listen = start_plane(rig, where, *options)
            return Subject(name, listen, (plane.pid,), (backend.pid,))

        return starter

    def forwarded() -> Subject:
        backend, where = start_backend(rig, tools)
        peers = free_address()
        owner, _ = start_plane(rig, where, "--listen-peers", peers)
        entry, listen = start_plane(rig, peers, "--to-peer")
        return Subject("data plane, forwarded", listen, (owner.pid, entry.pid), (backend.pid,))

    metrics = "data plane, local, per-model metrics"
    return {
        "data plane, local": local("data plane, local"),
        metrics: local(metrics, "--per-model-metrics"),
        "data plane, forwarded": forwarded,
    }
