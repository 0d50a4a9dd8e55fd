"""A controller that runs in a real cluster, with a real mesh over a real etcd whose model server the test scripts."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from mesh.controller.cluster import (
    CLUSTER_SERVING_RUNTIMES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    NAMESPACES,
    PREDICTORS,
    SECRETS,
    SERVING_RUNTIMES,
    Kind,
)
from mesh.controller.cluster.kinds import EVENTS
from mesh.controller.controller import Controller
from mesh.controller.namespaces.constraints import NAME as CONSTRAINTS
from mesh.controller.settings import ControllerSettings
from mesh.instance import PlacementSettings
from tests.instance.meshes import Client, Mesh
from tests.instance.scripted_runtime import ScriptedRuntime
from tests.servers.kubernetes import ApiRefusedError, ControlPlane

_CRDS = Path(__file__).parents[2] / "deploy" / "crds"
SERVICE = "modelmesh-serving"
#: A model server that brings its models' files itself and is nothing but a name here.
ML: dict[str, Any] = {
    "multiModel": True,
    "supportedModelFormats": [{"name": "ml", "version": "1", "autoSelect": True}],
    "protocolVersions": ["grpc-v2"],
    "grpcEndpoint": "port:8085",
    "grpcDataEndpoint": "port:8001",
    "storageHelper": {"disabled": True},
    "containers": [{"name": "server", "image": "server:1"}],
}


def define_kinds(cluster: ControlPlane) -> None:
    """Applies our definitions of resources, and waits until the API serves them."""
    for file in sorted(_CRDS.glob("*.yaml")):
        if file.name != "kustomization.yaml":
            define_kind(cluster, yaml.safe_load(file.read_text()))


def define_kind(cluster: ControlPlane, definition: Mapping[str, Any]) -> None:
    """Applies one definition, and waits until the API serves the kind."""
    spec = definition["spec"]
    name = definition["metadata"]["name"]
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    cluster.call("PATCH", f"{path}?fieldManager=tests&force=true", definition, "application/apply-patch+yaml")
    listing = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"

    def served() -> bool:
        try:
            return cluster.find(listing) is not None
        except ApiRefusedError as refused:
            # Its storage is being prepared.
            if refused.status == 429:
                return False
            raise

    cluster.until(served, name)


class Stage:
    """One namespace, which is the controller's own. Use as an async context manager.

    Attributes:
        namespace: name of it.
        mesh: its instances; `start_mesh` adds them.
        runtime: model server of the first instance.
    """

    def __init__(self, cluster: ControlPlane, namespace: str, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.folder = folder
        self._stack = AsyncExitStack()
        self._running: list[tuple[Controller, asyncio.Task[None], ApiClient]] = []
        self.configuration: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        connection = {"endpoints": self.cluster.etcd, "root_prefix": f"/{self.namespace}"}
        file = self.folder / "etcd.json"
        file.write_text(json.dumps(connection))
        self.mesh = await self._stack.enter_async_context(Mesh(self.folder, f"etcd:{file}"))
        self.runtime = ScriptedRuntime(self.mesh.socket())
        await self.create(secret("model-serving-etcd", etcd_connection=json.dumps(connection)))
        await self.create(controller_deployment())
        return self

    async def __aexit__(self, *error: object) -> None:
        while self._running:
            await self.stop_controller()
        await self._stack.aclose()

    # What a user does.

    async def call(self, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        return await asyncio.to_thread(self.cluster.call, method, path, body, content)

    async def create(self, resource: Mapping[str, Any], namespace: str | None = None) -> Any:
        kind = KINDS[resource["kind"]]
        return await self.call("POST", kind.path(self._where(kind, namespace)), resource)

    async def read(self, kind: Kind, name: str, namespace: str | None = None) -> Any:
        return await asyncio.to_thread(self.cluster.find, kind.path(self._where(kind, namespace), name))

    async def change(self, kind: Kind, name: str, patch: Mapping[str, Any], subresource: str = "") -> Any:
        path = kind.path(self._where(kind, None), name, subresource)
        return await self.call("PATCH", path, patch, "application/merge-patch+json")

    async def delete(self, kind: Kind, name: str) -> None:
        await self.call("DELETE", kind.path(self._where(kind, None), name))

    def _where(self, kind: Kind, namespace: str | None) -> str:
        return (namespace or self.namespace) if kind.namespaced else ""

    async def configure(self, **members: Any) -> None:
        """Writes the user's configuration: what was written before, with these members."""
        self.configuration |= members
        text = yaml.safe_dump(self.configuration)
        if await self.read(CONFIG_MAPS, "model-serving-config") is None:
            await self.create(config_map("model-serving-config", **{"config.yaml": text}))
        else:
            await self.change(CONFIG_MAPS, "model-serving-config", {"data": {"config.yaml": text}})

    # What runs.

    async def start_mesh(self) -> Client:
        """Starts an instance with labels and rules of the namespace's only runtime, and tells the controller of it."""
        deployment = await self.until(self._runtime_deployment, "the runtime's Deployment")
        rules = self.folder / "type_constraints"
        await self.until(lambda: self._fetch(rules), "the type constraints")
        environment = {
            item["name"]: item.get("value", "")
            for container in deployment["spec"]["template"]["spec"]["containers"]
            if container["name"] == "mm"
            for item in container["env"]
        }
        client = await self.mesh.add(
            self.runtime,
            service_name=environment["MM_SERVICE_NAME"],
            kv_prefix=environment["MM_KVSTORE_PREFIX"],
            labels=tuple(environment["MM_LABELS"].split(",")),
            placement=PlacementSettings(type_constraints_path=str(rules)),
        )
        await self.configure(modelMeshEndpoint=client.address)
        return client

    async def refresh_rules(self) -> None:
        """Does what a kubelet does: brings the type constraints as they are now to the instance."""
        await self._fetch(self.folder / "type_constraints")

    async def _runtime_deployment(self) -> Any:
        found = await self.call("GET", DEPLOYMENTS.path(self.namespace))
        return next((one for one in found["items"] if one["metadata"]["name"].startswith(SERVICE)), None)

    async def _fetch(self, file: Path) -> bool:
        found = await self.read(CONFIG_MAPS, CONSTRAINTS)
        if found is None:
            return False
        written = base64.b64decode(found["binaryData"]["type_constraints"])
        if not file.exists() or file.read_bytes() != written:
            file.write_bytes(written)
        return True

    async def start_controller(self, **settings: Any) -> Controller:
        """Starts a controller of this namespace, or with ``cluster_scope=True`` of all, and waits until it works."""
        configuration = Configuration()
        configuration.connection_pool_maxsize = 64
        await config.load_kube_config(str(self.cluster.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
        client = ApiClient(configuration)
        chosen: dict[str, Any] = {
            "namespace": self.namespace,
            "identity": f"controller-{len(self._running)}",
            "deployment": "modelmesh-controller",
            "cluster_scope": False,
            **settings,
        }
        controller = Controller(client, ControllerSettings(**chosen))
        task = asyncio.create_task(controller.run())
        self._running.append((controller, task, client))
        await self.until(lambda: controller.leads or task.done(), "a controller that works")
        if task.done():
            await task
        return controller

    async def stop_controller(self) -> None:
        """Ends the controller that was started last."""
        _, task, client = self._running.pop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()  # type: ignore[no-untyped-call]

    # What is to be seen.

    async def until(self, check: Callable[[], Any], what: str, within_s: float = 30.0) -> Any:
        """Waits until ``check``, plain or not, answers with something that is true, and returns that."""
        deadline = time.monotonic() + within_s
        while True:
            found = check()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            for _, task, _ in self._running:
                if task.done():
                    await task
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not after {within_s:g} s")
            await asyncio.sleep(0.05)

    async def until_status(self, kind: Kind, name: str, **members: Any) -> Any:
        """Waits until the model's status has these members, and returns the resource."""
        found: Any = None

        async def reached() -> Any:
            nonlocal found
            found = await self.read(kind, name)
            status = flat_status(found)
            return found if all(status.get(member) == value for member, value in members.items()) else None

        try:
            return await self.until(reached, f"{kind.kind} {name}")
        except TimeoutError as late:
            raise TimeoutError(f"{late}: {members} wanted, {found and found.get('status')}") from None

    async def until_object(
        self, kind: Kind, name: str, check: Callable[[Any], Any] = bool, namespace: str | None = None
    ) -> Any:
        """Waits until an object is there, and ``check`` of it is true; returns it."""

        async def there() -> Any:
            found = await self.read(kind, name, namespace)
            with contextlib.suppress(KeyError):
                return found if found is not None and check(found) else None

        return await self.until(there, f"{kind.kind} {name}")

    async def until_gone(self, kind: Kind, name: str, namespace: str | None = None) -> None:
        async def gone() -> bool:
            found = await self.read(kind, name, namespace)
            return found is None or "deletionTimestamp" in found["metadata"]

        await self.until(gone, f"{kind.kind} {name} gone")

    async def until_event(self, name: str, reason: str, message: str = "") -> None:
        """Waits for an Event of an object in this namespace."""

        async def told() -> bool:
            found = await self.call("GET", EVENTS.path(self.namespace))
            return any(
                event["involvedObject"]["name"] == name
                and event["reason"] == reason
                and message in event["message"]
                for event in found["items"]
            )

        await self.until(told, f"Event {reason} of {name}")


def flat_status(resource: Any) -> dict[str, Any]:
    """A model's status, of whichever kind: transition, active, target, reason, message, total, failed, available."""
    status = (resource or {}).get("status") or {}
    model = status.get("modelStatus") or status
    states, copies = model.get("states") or model, model.get("copies") or model
    failure = model.get("lastFailureInfo") or {}
    conditions = {one["type"]: one["status"] == "True" for one in status.get("conditions") or ()}
    return {
        "transition": model.get("transitionStatus"),
        "active": states.get("activeModelState"),
        "target": states.get("targetModelState"),
        "total": copies.get("totalCopies"),
        "failed": copies.get("failedCopies"),
        "reason": failure.get("reason"),
        "message": failure.get("message"),
        "model": failure.get("modelId") or failure.get("modelRevisionName"),
        "available": status.get("available", conditions.get("Ready")),
    }


KINDS = {
    kind.kind: kind
    for kind in (
        CONFIG_MAPS,
        SECRETS,
        DEPLOYMENTS,
        NAMESPACES,
        PREDICTORS,
        INFERENCE_SERVICES,
        SERVING_RUNTIMES,
        CLUSTER_SERVING_RUNTIMES,
        Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    )
}


def _of(
    kind: Kind, name: str, annotations: Mapping[str, str] | None = None, **members: Any
) -> dict[str, Any]:
    metadata = {"name": name, **({"annotations": dict(annotations)} if annotations else {})}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **members}


def inference_service(name: str, path: str = "p", **annotations: str) -> dict[str, Any]:
    """An InferenceService of the mesh; names of annotations have ``_`` for ``-`` and our prefix."""
    model = {"modelFormat": {"name": "ml"}, "storage": {"key": "k", "path": path}}
    written = {f"modelmesh.serving.kserve.io/{k.replace('_', '-')}": v for k, v in annotations.items()}
    return _of(
        INFERENCE_SERVICES,
        name,
        {"serving.kserve.io/deploymentMode": "ModelMesh", **written},
        spec={"predictor": {"model": model}},
    )


def predictor(name: str, path: str = "p", **spec: Any) -> dict[str, Any]:
    """A Predictor."""
    return _of(PREDICTORS, name, spec={"modelType": {"name": "ml"}, "storage": {"path": path}, **spec})


def serving_runtime(name: str = "rt", kind: Kind = SERVING_RUNTIMES, **spec: Any) -> dict[str, Any]:
    """A runtime of format ``ml``."""
    return _of(kind, name, spec=ML | spec)


def secret(name: str, **members: str) -> dict[str, Any]:
    """A Secret."""
    return _of(SECRETS, name, stringData=members)


def config_map(name: str, **members: str) -> dict[str, Any]:
    """A ConfigMap."""
    return _of(CONFIG_MAPS, name, data=members)


def controller_deployment() -> dict[str, Any]:
    """The controller's own, which owns what a controller of one namespace makes."""
    labels = {"app": "controller"}
    pod = {"containers": [{"name": "manager", "image": "controller:1"}]}
    spec = {
        "replicas": 0,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    return _of(DEPLOYMENTS, "modelmesh-controller", spec=spec)
