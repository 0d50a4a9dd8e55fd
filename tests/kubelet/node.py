"""A node that runs its pods: what a kubelet does, as far as meshes need it."""

import contextlib
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.kubelet.network import Bridge
from tests.kubelet.pods import Images, Pod
from tests.kubelet.volumes import Sources
from tests.servers.kubernetes import ApiRefusedError, ControlPlane

_LOOK_S = 0.15
_LEASE_S = 10.0


class Node:
    """A node of a cluster.

    Each pod has a network and an address of its own, each container a root and variables of its own. Limits of memory
    and CPU, users and capabilities are not kept.

    Attributes:
        address: of this machine, for the pods.
    """

    def __init__(
        self,
        plane: ControlPlane,
        folder: Path,
        images: Images,
        *,
        name: str = "here",
        haste: float = 1.0,
    ) -> None:
        """Makes the network; nothing runs yet.

        Args:
            plane: the cluster.
            folder: for volumes and logs; best on a RAM disk.
            images: programs by the image's name, with or without its tag.
            name: of the node.
            haste: by how much probes are asked sooner and more often than pods say, so that tests wait less.

        Raises:
            NoNetworkError: the machine does not let the tests make networks.
        """
        self._plane = plane
        self._folder = folder
        self._images = images
        self._name = name
        self._haste = haste
        self._bridge = Bridge()
        self._sources = Sources(plane)
        self._pods: dict[str, Pod] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name="kubelet", daemon=True),
            threading.Thread(target=self._renew, name="kubelet's lease", daemon=True),
        ]
        self.address = self._bridge.host

    def start(self) -> None:
        """Joins the cluster."""
        self._plane.add_node(self._name)
        self._plane.call(
            "PATCH",
            f"/api/v1/nodes/{self._name}/status",
            {"status": {"conditions": [_ready()], "addresses": [_address(self.address)]}},
            "application/merge-patch+json",
        )
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends all pods at once, and the network."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        pods = list(self._pods.values())
        for pod in pods:
            pod.abandon()
        for pod in pods:
            pod.wait_until_gone(30)
        self._bridge.close()

    def log(self, lines: int = 25) -> str:
        """The last lines of all containers' logs, for messages."""
        shown = []
        for file in sorted(self._folder.glob("*/*.log")):
            tail = file.read_text(errors="replace").splitlines()[-lines:]
            shown += [f"--- {file.relative_to(self._folder)}", *tail]
        shown += [f"--- {pod.name}: {pod.problem}" for pod in list(self._pods.values()) if pod.problem]
        return "\n".join(shown)

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                found = self._plane.call("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{self._name}")
            except (OSError, ApiRefusedError):
                continue
            items: dict[str, Any] = {item["metadata"]["uid"]: item for item in found["items"]}
            for uid, item in items.items():
                if uid not in self._pods:
                    folder = self._folder / f"{item['metadata']['name']}-{uuid.uuid4().hex[:6]}"
                    self._pods[uid] = Pod(
                        item,
                        folder,
                        self._plane,
                        self._bridge,
                        self._sources,
                        self._images,
                        self._haste,
                    )
                    self._pods[uid].start()
                self._pods[uid].update(item)
            for uid in self._pods.keys() - items.keys():
                self._pods[uid].abandon()
                if self._pods[uid].gone:
                    del self._pods[uid]

    def _renew(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self._name}}
        while True:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            spec = {"holderIdentity": self._name, "leaseDurationSeconds": 40, "renewTime": now}
            # Whatever keeps it from being written is over the next time, or the node counts as gone.
            with contextlib.suppress(OSError, ApiRefusedError):
                self._plane.call(
                    "PATCH",
                    f"{path}/{self._name}?fieldManager=kubelet&force=true",
                    lease | {"spec": spec},
                    "application/apply-patch+yaml",
                )
            if self._stop.wait(_LEASE_S):
                return


def _ready() -> dict[str, str]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }


def _address(address: str) -> dict[str, str]:
    return {"type": "InternalIP", "address": address}
