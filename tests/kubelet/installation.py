"""A cluster with the mesh installed: control plane, a node, the registry, an S3 server and the controller."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.kubelet.metrics import MetricsServer
from tests.kubelet.node import Node
from tests.servers.etcd import EtcdServer
from tests.servers.kubernetes import ControlPlane
from tests.servers.process import ServerProcess
from tests.servers.s3 import S3Server

ROOT = Path(__file__).parents[2]
SYSTEM = "model-serving"
PORT = 8033
#: Seconds that something may take on a busy machine.
PATIENCE_S = 90.0

_IMAGES = {
    "model-mesh": [sys.executable, "-c", "from mesh.cli import main; main()", "serve"],
    "mesh-runtime": [sys.executable, "-m", "mesh.runtimes.builtin"],
    "linear-runtime": [sys.executable, str(ROOT / "examples" / "custom_runtime.py")],
}
#: By how much probes come sooner than pods say: what is tried here is not how long users wait.
_HASTE = 5.0


class Installation:
    """One for all tests of this folder; each uses a namespace of its own.

    Args:
        kubernetes, etcd, s3: folders of the programs.
        folder: for all that is kept; best on a RAM disk.
    """

    def __init__(self, kubernetes: Path, etcd: Path, s3: Path, folder: Path) -> None:
        self.folder = folder
        self.plane = ControlPlane(kubernetes, folder / "plane")
        self.node = Node(self.plane, folder / "pods", _IMAGES, haste=_HASTE)
        self.etcd = EtcdServer(etcd, folder / "etcd", host=self.node.address)
        self.s3 = S3Server(s3, folder / "s3", host=self.node.address)
        self.controller = ServerProcess(
            "controller",
            [
                sys.executable,
                "-c",
                "from mesh.cli import main; main()",
                "controller",
                "--metrics-addr=:0",
                "--health-probe-bind-address=:0",
            ],
            folder / "controller.log",
            env={
                "PYTHONPATH": f"{ROOT / 'src'}",
                "KUBECONFIG": str(self.plane.kubeconfig),
                "NAMESPACE": SYSTEM,
                "POD_NAME": "",
            },
        )
        self.metrics = MetricsServer(self.plane, folder / "metrics")
        self._ends = ExitStack()

    def start(self) -> None:
        """Starts everything."""
        self._ends.callback(self._stop_servers)
        self.plane.start()
        self._ends.callback(self.node.stop)
        self.node.start()
        self.etcd.start()
        self.s3.start()
        self._ends.callback(self.metrics.stop)
        self.metrics.start()
        definitions = ROOT / "deploy" / "crds"
        self.plane.kubectl("apply", "--server-side", "-k", definitions)
        self.plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        connection = {"endpoints": self.etcd.endpoint, "root_prefix": "modelmesh-serving"}
        configuration = {
            "podsPerRuntime": 1,
            "restProxy": {"enabled": False},
            "allowAnyPVC": True,
            "scaleToZero": {"gracePeriodSeconds": 2},
        }
        self.apply(
            _object("v1", "Namespace", SYSTEM),
            _object("v1", "Secret", "model-serving-etcd", SYSTEM)
            | {"stringData": {"etcd_connection": json.dumps(connection)}},
            _object("v1", "ConfigMap", "model-serving-config", SYSTEM)
            | {"data": {"config.yaml": json.dumps(configuration)}},
        )
        self._ends.callback(lambda: self.controller.running and self.controller.kill())
        self.controller.start()

    def stop(self) -> None:
        """Ends everything."""
        self._ends.close()

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """What users do with their files."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.plane.kubectl("apply", "-f", "-", input_text=json.dumps(items))

    async def until(self, what: Callable[[], bool], named: str, within_s: float = PATIENCE_S) -> None:
        """Waits for something to be true; else tells what pods and the controller have logged."""
        try:
            await asyncio.to_thread(self.plane.until, what, named, within_s)
        except TimeoutError as late:
            logs = f"{self.node.log()}\n--- controller\n{self.controller.log_tail()}"
            raise AssertionError(f"{late}\n{logs}") from None

    def _stop_servers(self) -> None:
        for server in (self.s3, self.etcd):
            if server.process.running:
                server.process.kill()
        self.plane.stop()


class Namespace:
    """A user's namespace, with a mesh."""

    def __init__(self, installation: Installation, name: str) -> None:
        self.name = name
        self.installation = installation
        self.plane = installation.plane
        labels = {"metadata": {"name": name, "labels": {"modelmesh-enabled": "true"}}}
        installation.apply(_object("v1", "Namespace", name) | labels)
        self._storages: dict[str, str] = {}
        self.add_storage("minio")

    def add_storage(self, key: str) -> None:
        """Has models find the namespace's bucket by a key, too."""
        storage = self.installation.s3.storage_config(default_bucket=self.name)
        self._storages[key] = json.dumps(storage)
        secret = _object("v1", "Secret", "storage-config", self.name)
        self.installation.apply(secret | {"stringData": self._storages})

    def has_file(self, volume: str, name: str) -> bool:
        """Whether a file of a volume has come to a pod."""
        return any((self.installation.folder / "pods").glob(f"*/volumes/{volume}/{name}"))

    def claim(self, name: str) -> Path:
        """Makes a volume claim and returns the folder behind it."""
        folder = self.installation.folder / "claims" / f"{self.name}-{name}"
        folder.mkdir(parents=True)
        size = {"storage": "1Gi"}
        modes = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        self.installation.apply(
            _object("v1", "PersistentVolume", folder.name)
            | {
                "spec": modes
                | {
                    "capacity": size,
                    "hostPath": {"path": str(folder)},
                    "claimRef": {"namespace": self.name, "name": name},
                }
            },
            _object("v1", "PersistentVolumeClaim", name, self.name)
            | {"spec": modes | {"resources": {"requests": size}, "volumeName": folder.name}},
        )
        return folder

    def apply(self, *objects: Mapping[str, Any]) -> None:
        self.installation.apply(
            *({**one, "metadata": {**one["metadata"], "namespace": self.name}} for one in objects)
        )

    def get(self, kind: str, name: str) -> Any:
        """An object; None where it is not there."""
        found = self.plane.kubectl("-n", self.name, "get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(found) if found else None

    def all(self, kind: str) -> list[Any]:
        return list(json.loads(self.plane.kubectl("-n", self.name, "get", kind, "-o", "json"))["items"])

    def delete(self, kind: str, name: str) -> None:
        self.plane.kubectl("-n", self.name, "delete", kind, name)

    def ready_pods(self) -> list[Any]:
        """Pods of the mesh that requests may go to, as the Service has them."""
        return [pod for pod in self.all("pods") if _is_ready(pod)]

    def addresses(self) -> list[str]:
        """Where requests may go, by the Service's endpoints."""
        found = []
        for part in self.all("endpointslices"):
            for endpoint in part.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready"):
                    found += [f"{address}:{PORT}" for address in endpoint["addresses"]]
        return found

    async def until(self, what: Callable[[], bool], named: str) -> None:
        await self.installation.until(what, named)

    async def until_ready(self, name: str) -> None:
        """Waits until an InferenceService says that it is ready."""
        await self.until(lambda: self.condition(name, "Ready") == "True", f"InferenceService {name} ready")

    def condition(self, name: str, kind: str) -> str:
        found = self.get("inferenceservice", name) or {}
        for condition in (found.get("status") or {}).get("conditions") or ():
            if condition["type"] == kind:
                return str(condition["status"])
        return ""


def runtime(name: str, image: str, format_name: str, *arguments: str, **more: Any) -> dict[str, Any]:
    """A ServingRuntime of a server that speaks ``mmesh.ModelRuntime`` on a socket."""
    socket = "/sockets/runtime.sock"
    return _object("serving.kserve.io/v1alpha1", "ServingRuntime", name) | {
        "spec": {
            "supportedModelFormats": [{"name": format_name, "autoSelect": True}],
            "multiModel": True,
            "grpcEndpoint": f"unix://{socket}",
            "grpcDataEndpoint": f"unix://{socket}",
            "containers": [
                {
                    "name": "server",
                    "image": image,
                    "args": ["--socket", socket, *arguments],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
                }
            ],
            **more,
        }
    }


def inference_service(name: str, format_name: str, **model: Any) -> dict[str, Any]:
    """An InferenceService for the mesh."""
    made = _object("serving.kserve.io/v1beta1", "InferenceService", name)
    made["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": "ModelMesh"}
    return made | {"spec": {"predictor": {"model": {"modelFormat": {"name": format_name}, **model}}}}


def _object(api: str, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api, "kind": kind, "metadata": metadata}


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    leaving = "deletionTimestamp" in pod["metadata"]
    return not leaving and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
