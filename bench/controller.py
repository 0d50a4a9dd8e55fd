"""What the Kubernetes controller costs: many InferenceServices at once, its start among them, its memory.

Everything is real but the model server, which loads at once, and the nodes: the API server with its controllers, etcd,
``mesh controller`` and one ``mesh serve``. They share the machine, so that the seconds are an upper bound.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from tests.controller.processes import ControllerProcess
from tests.controller.stage import (
    KINDS,
    config_map,
    controller_deployment,
    define_kinds,
    flat_status,
    inference_service,
    secret,
    serving_runtime,
)
from tests.servers.kubernetes import ControlPlane
from tests.servers.kubernetes import recipe as kubernetes_recipe

from bench.control import Figure, figures_table
from bench.meshes import Cluster
from bench.report import machine_lines
from bench.rig import Rig, add_rig_options, build_tools, cpu_seconds, describe_machine, resident_mib, rig_of
from mesh.controller.cluster import INFERENCE_SERVICES

NAMESPACE = "bench"
#: Users that create resources at the same time.
_CREATORS = 8
#: Between two looks at the statuses, seconds.
_LOOK_S = 1.0
#: A controller that has worked on nothing for so long has nothing to do, seconds.
_IDLE_S = 5.0
#: Longest wait for anything, seconds.
_PATIENCE_S = 600.0
#: Kinds that others write: the cluster's own controllers, and elections.
_OF_OTHERS = {"leases", "nodes", "pods", "endpoints", "endpointslices", "replicasets", "serviceaccounts"}
_WRITES = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<count>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_WRITING = {"POST", "PUT", "PATCH", "APPLY", "DELETE"}


class Bench:
    """One cluster with one mesh."""

    def __init__(self, rig: Rig, services: int) -> None:
        """Starts the cluster and the mesh, which have nothing to do yet."""
        self._rig = rig
        self._services = services
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self._cluster = ControlPlane(kubernetes_recipe().provision(print), rig.memory_directory() / "kube")
        rig.on_exit(self._cluster.stop)
        self._cluster.start(fake_nodes=1)
        define_kinds(self._cluster)
        self._create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        meshes = Cluster(rig, build_tools())
        self._mesh = meshes.start("modelmesh-serving", core=None, settings={"MM_KVSTORE_PREFIX": "mm"})
        connection = json.dumps({"endpoints": meshes.etcd.endpoint})
        self._create(secret("model-serving-etcd", etcd_connection=connection))
        self._create(controller_deployment())
        endpoint = {"config.yaml": f"modelMeshEndpoint: {self._mesh.target}"}
        self._create(config_map("model-serving-config", **endpoint))
        self._create(serving_runtime())

    def run(self) -> None:
        """Measures."""
        controller = self._start_controller()
        before, begun = self._writes(), time.monotonic()
        with ThreadPoolExecutor(_CREATORS) as users:
            list(users.map(self._create, (inference_service(f"m{i}") for i in range(self._services))))
        created = time.monotonic() - begun
        self._until_loaded()
        took = time.monotonic() - begun
        cpu = cpu_seconds(controller.process.pid)
        self.figures.append(
            Figure(f"{self._services:,} created at once, until all are Loaded", "s", [took], 120)
        )
        self._until_idle(controller)
        told = ", ".join(f"{count:,} of {kind}" for kind, count in (self._writes() - before).most_common(6))
        self.notes.append(
            f"{_CREATORS} users need {created:.1f} s to create them; the controller used {cpu:.1f} CPU s; writes, "
            f"theirs included: {told}"
        )
        memory = resident_mib(controller.process.pid)
        controller.process.stop()
        before, begun = self._writes(), time.monotonic()
        controller = self._start_controller()
        self._until_idle(controller)
        took = time.monotonic() - begun - _IDLE_S
        written = self._writes() - before
        cpu = cpu_seconds(controller.process.pid)
        memory = max(memory, resident_mib(controller.process.pid))
        self.figures += [
            Figure("writes of a start at which nothing has changed", "", [float(written.total())], 0),
            Figure("resident memory of the controller", "MiB", [memory], 250),
        ]
        self.notes.append(
            f"such a start takes {took:.1f} s and {cpu:.1f} CPU s until everything is looked at; writes: "
            f"{dict(written)}"
        )

    def _create(self, resource: Mapping[str, Any]) -> None:
        kind = KINDS[resource["kind"]]
        self._cluster.call("POST", kind.path(NAMESPACE if kind.namespaced else ""), resource)

    def _start_controller(self) -> ControllerProcess:
        controller = ControllerProcess(self._cluster, NAMESPACE, self._rig.directory)
        self._rig.on_exit(controller.process.kill)
        self._rig.favour(controller.process.pid)
        controller.wait_until_ready()
        return controller

    def _until_loaded(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            found = self._cluster.call("GET", INFERENCE_SERVICES.path(NAMESPACE))["items"]
            states = Counter(flat_status(one)["active"] for one in found)
            if states["Loaded"] == self._services:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {_PATIENCE_S:.0f} s: {states}")
            time.sleep(_LOOK_S)

    def _until_idle(self, controller: ControllerProcess) -> None:
        """Waits until the controller has looked at everything, and has done nothing for a while."""
        deadline = time.monotonic() + _PATIENCE_S
        seen, since = -1.0, time.monotonic()
        while time.monotonic() - since < _IDLE_S or seen < self._services:
            done = controller.metric('modelmesh_controller_reconciles_total{queue="predictor",result="done"}')
            if done != seen:
                seen, since = done, time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the controller is not idle after {_PATIENCE_S:.0f} s")
            time.sleep(0.2)

    def _writes(self) -> Counter[str]:
        """Writes that the API server has taken, by kind; not those that others than users and the controller make."""
        writes: Counter[str] = Counter()
        for found in _WRITES.finditer(self._cluster.read_text("/metrics")):
            labels = dict(_LABEL.findall(found["labels"]))
            if labels.get("verb") in _WRITING and labels.get("resource") not in _OF_OTHERS:
                writes[labels["resource"]] += int(float(found["count"]))
        return writes


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_rig_options(parser)
    parser.add_argument("--services", type=int, default=1_000, help="InferenceServices")
    settings = parser.parse_args(arguments)
    with rig_of(settings) as rig:
        bench = Bench(rig, settings.services)
        bench.run()
    machine = describe_machine()
    notes = "\n".join(f"- {note}" for note in bench.notes)
    text = f"{machine_lines(machine)}\n\n{figures_table(bench.figures)}\n\n{notes}\n"
    print(text)
    if settings.output:
        raw = {"machine": machine, "figures": [asdict(one) for one in bench.figures], "notes": bench.notes}
        settings.output.write_text(json.dumps(raw, indent=1))
        settings.output.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
