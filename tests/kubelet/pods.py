"""One pod, run from when it is given to the node until it is gone."""

import os
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.kubelet.containers import Container
from tests.kubelet.environment import NotThereYetError, command_of, environment_of
from tests.kubelet.network import Bridge
from tests.kubelet.volumes import Sources, Volumes
from tests.servers.kubernetes import ApiRefusedError, ControlPlane
from tests.servers.process import ServerProcess

#: The program of an image, by what is in its name; ``command`` of a container goes before it.
Images = Mapping[str, list[str]]
_TICK_S = 0.05


class Pod:
    """A pod of the node.

    Args:
        found: the object, as it was given to the node.
        folder: of its own.
        plane: of the cluster.
        bridge: that connects it.
        sources: of its files and variables.
        images: that it may run.
        haste: of its probes.
    """

    def __init__(
        self,
        found: Mapping[str, Any],
        folder: Path,
        plane: ControlPlane,
        bridge: Bridge,
        sources: Sources,
        images: Images,
        haste: float,
    ) -> None:
        metadata = found["metadata"]
        self.name: str = metadata["name"]
        self._uid, self.namespace = metadata["uid"], metadata["namespace"]
        self._pod = found
        self._folder = folder
        self._plane = plane
        self._bridge = bridge
        self._sources = sources
        self._images = images
        self._haste = haste
        self._stop = threading.Event()
        self._leave_within_s: float | None = None
        self._written: dict[str, Any] = {}
        self._since: dict[str, tuple[str, str]] = {}
        self._network: ServerProcess | None = None
        self._address = ""
        self._volumes: Volumes | None = None
        self.containers: list[Container] = []
        self.problem = ""
        self._thread = threading.Thread(target=self._run, name=f"pod {self.name}", daemon=True)

    def start(self) -> None:
        """Begins to run it."""
        self._thread.start()

    @property
    def gone(self) -> bool:
        """Whether all of it has ended."""
        return not self._thread.is_alive()

    def wait_until_gone(self, within_s: float) -> None:
        """Waits for its end, which somebody must have asked for."""
        self._thread.join(within_s)

    def update(self, found: Mapping[str, Any]) -> None:
        """Takes note of a newer state of the object."""
        self._pod = found
        if "deletionTimestamp" in found["metadata"] and self._leave_within_s is None:
            self._leave_within_s = float(found["metadata"].get("deletionGracePeriodSeconds") or 0)

    def abandon(self) -> None:
        """Ends it at once, and tells nobody."""
        self._stop.set()

    def _run(self) -> None:
        self._folder.mkdir(parents=True)
        try:
            self._connect()
            while not self._stop.is_set() and self._leave_within_s is None:
                self._go_on()
                self._tell()
                self._stop.wait(_TICK_S)
            if not self._stop.is_set():
                self._leave()
        finally:
            for container in self.containers:
                container.kill()
            if self._network is not None:
                self._network.kill()
            self._bridge.release(self._address)
            if self._volumes is not None:
                self._volumes.remove()

    def _connect(self) -> None:
        """Starts the process that holds the network."""
        log = self._folder / "network.log"
        self._network = ServerProcess(
            f"network of {self.name}", ["unshare", "--net", "sleep", "infinity"], log
        )
        self._network.start()
        own, entered = (Path(f"/proc/{pid}/ns/net") for pid in ("self", self._network.pid))
        self._network.wait_until(lambda: entered.readlink() != own.readlink())
        self._address = self._bridge.attach(self._network.pid)

    def _go_on(self) -> None:
        try:
            if not self.containers:
                self.containers = self._made()
            assert self._volumes is not None
            self._volumes.refresh()
            self.problem = ""
        except (NotThereYetError, OSError, ApiRefusedError) as problem:
            self.problem = str(problem)
        for container in self.containers:
            container.tick()

    def _made(self) -> list[Container]:
        addresses = {
            "status.podIP": self._address,
            "status.podIPs": self._address,
            "status.hostIP": self._bridge.host,
        }
        volumes = Volumes(self._pod, self._folder / "volumes", self._plane, self._sources, addresses)
        volumes.prepare()
        assert self._network is not None
        made = []
        for spec in self._pod["spec"]["containers"]:
            container = Container(
                spec, self._folder / spec["name"], self._network.pid, self._address, self._haste
            )
            environment = environment_of(
                spec,
                self._pod,
                addresses,
                lambda kind, name: self._sources.read(self.namespace, kind, name),
            )
            command = command_of(spec, self._entrypoint(spec), environment)
            container.define(command, _of_image(self.name) | environment, volumes.mounts(spec))
            made.append(container)
        self._volumes = volumes
        return made

    def _entrypoint(self, container: Mapping[str, Any]) -> list[str]:
        image = container.get("image", "")
        found = self._images.get(image) or self._images.get(image.rpartition(":")[0])
        if found is None and not container.get("command"):
            raise NotThereYetError(f'image "{image}" is unknown to the node')
        return found or []

    def _leave(self) -> None:
        """Ends the containers, all at the same time, and then the object."""
        assert self._leave_within_s is not None
        within_s = self._leave_within_s
        ending = []
        for container in self.containers:
            container.leaving = True
            ending.append(threading.Thread(target=container.end, args=(within_s,), daemon=True))
        for thread in ending:
            thread.start()
        while any(thread.is_alive() for thread in ending) and not self._stop.is_set():
            for container in self.containers:
                if container.running:
                    container.tick()
            self._tell()
            self._stop.wait(_TICK_S)
        for container in self.containers:
            container.kill()
        self._tell()
        while not self._stop.is_set():
            try:
                self._plane.call(
                    "DELETE", self._path, {"gracePeriodSeconds": 0, "preconditions": {"uid": self._uid}}
                )
                return
            except ApiRefusedError:
                return
            except OSError:
                self._stop.wait(0.5)

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    def _tell(self) -> None:
        """Writes the status, where it is another than before."""
        status = self._status()
        if status == self._written:
            return
        try:
            self._plane.call(
                "PATCH", f"{self._path}/status", {"status": status}, "application/merge-patch+json"
            )
        except (OSError, ApiRefusedError):
            # It is written the next time.
            return
        self._written = status

    def _status(self) -> dict[str, Any]:
        containers = [container.status() for container in self.containers]
        if not containers:
            waiting = {"reason": "ContainerCreating", "message": self.problem}
            containers = [
                {
                    "name": spec["name"],
                    "image": spec.get("image", ""),
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"waiting": waiting},
                }
                for spec in self._pod["spec"]["containers"]
            ]
        ready = all(container["ready"] for container in containers)
        running = any("running" in container["state"] for container in containers)
        conditions = [
            condition
            for condition in (self._pod.get("status") or {}).get("conditions") or ()
            if condition["type"] not in {"Initialized", "Ready", "ContainersReady"}
        ]
        for kind, true in (("Initialized", True), ("ContainersReady", ready), ("Ready", ready)):
            conditions.append(self._condition(kind, str(true)))
        return {
            "phase": "Running" if running or self.containers else "Pending",
            "hostIP": self._bridge.host,
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "startTime": self._since["Initialized"][1],
            "conditions": conditions,
            "containerStatuses": containers,
        }

    def _condition(self, kind: str, status: str) -> dict[str, Any]:
        if self._since.get(kind, ("",))[0] != status:
            self._since[kind] = (status, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        return {"type": kind, "status": status, "lastTransitionTime": self._since[kind][1]}


def _of_image(pod: str) -> dict[str, str]:
    """What every image has: this checkout, for the Python that runs the tests."""
    root = Path(__file__).parents[2]
    mark = {name: os.environ[name] for name in ("MESH_TEST_RUN",) if name in os.environ}
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/root",
        "HOSTNAME": pod,
        "PYTHONPATH": f"{root / 'src'}:{root}",
        "PYTHONUNBUFFERED": "1",
        **mark,
    }
