"""Gives each namespace with a mesh its Service, constraints, connection and policies, and a client of its mesh."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from mesh.controller.cluster import Again, ClusterError, Object
from mesh.controller.mesh_client import MeshClient
from mesh.controller.namespaces import (
    InvalidEtcdSecret,
    constraints_map,
    mesh_service,
    must_be_made_anew,
    network_policy,
    secret_for_namespace,
    service_monitor,
)
from mesh.controller.namespaces.constraints import NAME as CONSTRAINTS
from mesh.controller.namespaces.service import MONITOR, RUNTIMES_POLICY
from mesh.controller.predictors import Source
from mesh.controller.reconcilers.writing import Writer, again
from mesh.controller.registry_events import RegistryEvents
from mesh.controller.runtimes import CONTROLLER, SERVICE_LABEL
from mesh.controller.tls import InvalidCertificates, credentials_of
from mesh.controller.view import View
from mesh.registry import InvalidConnection

_log = logging.getLogger(__name__)
#: Told of a predictor of a namespace that the registry says something new of.
Heard = Callable[[str, Source, str], None]


class NamespaceReconciler:
    """Works on one namespace at a time.

    Args:
        view: of the cluster.
        writer: of objects.
        heard: is told what the registries say.
        started: is told of a namespace whose mesh can be asked from now on.
    """

    def __init__(self, view: View, writer: Writer, heard: Heard, started: Callable[[str], None]) -> None:
        self._view = view
        self._writer = writer
        self._heard = heard
        self._started = started
        self._events: dict[str, tuple[tuple[str, str], RegistryEvents]] = {}
        self._secured: dict[str, tuple[str, ...]] = {}

    async def reconcile(self, namespace: str) -> float | None:
        """Brings a namespace up to date.

        Returns:
            None: it is looked at again when something changes.

        Raises:
            Again: it is to be tried again, with back-off.
        """
        try:
            if self._view.is_enabled(namespace):
                await self._bring_up(namespace)
            else:
                await self._take_down(namespace)
        except ClusterError as problem:
            raise again(problem) from problem
        except (InvalidEtcdSecret, InvalidConnection, InvalidCertificates) as problem:
            raise Again(f"no mesh in namespace {namespace}: {problem}") from problem
        return None

    async def close(self) -> None:
        """Ends all that was begun."""
        for mesh in self._view.meshes.values():
            await mesh.close()
        for _, events in self._events.values():
            await events.close()

    async def _bring_up(self, namespace: str) -> None:
        view, configuration = self._view, self._view.configuration
        owner = await self._owner(namespace)
        service = await self._service(namespace, owner)
        if view.monitors is not None:
            monitor = service_monitor(configuration, namespace, service["metadata"]["uid"])
            if monitor is None:
                await self._writer.delete(view.monitors, namespace, MONITOR)
            else:
                await self._writer.apply(view.monitors, monitor)
        await self._writer.apply(view.policies, network_policy(configuration, namespace, owner))
        runtimes = view.runtimes_of(namespace).values()
        secret = await self._secret(namespace, needed=any(runtime.serves for runtime in runtimes))
        if any(runtime.multi_model or runtime.kind == "ServingRuntime" for runtime in runtimes):
            await self._writer.apply(
                view.config_maps, constraints_map(list(runtimes), configuration, namespace)
            )
        else:
            await self._writer.delete(view.config_maps, namespace, CONSTRAINTS)
        await self._connect(namespace)
        if secret is not None:
            await self._follow(namespace, secret)

    async def _take_down(self, namespace: str) -> None:
        view = self._view
        if (mesh := view.meshes.pop(namespace, None)) is not None:
            await mesh.close()
        await self._unfollow(namespace)
        for service in view.services.within(namespace):
            if SERVICE_LABEL in (service["metadata"].get("labels") or {}):
                await self._writer.delete(view.services, namespace, service["metadata"]["name"])
        if view.monitors is not None:
            await self._writer.delete(view.monitors, namespace, MONITOR)
        for informer, name in (
            (view.policies, RUNTIMES_POLICY),
            (view.config_maps, CONSTRAINTS),
            (view.secrets, view.etcd_secret()),
        ):
            found = informer.get(namespace, name)
            if found is not None and _is_ours(found):
                await self._writer.delete(informer, namespace, name)

    async def _owner(self, namespace: str) -> dict[str, Any]:
        """What the namespace's objects go with: the namespace, or the controller where it sees no namespaces."""
        view = self._view
        if view.namespaces is not None:
            kind, api, found = "Namespace", "v1", view.namespaces.get("", namespace)
        else:
            kind, api = "Deployment", "apps/v1"
            found = view.deployments.get(namespace, view.settings.deployment)
        if found is None:
            raise Again(
                f"{kind} {view.settings.deployment if kind == 'Deployment' else namespace} is not there"
            )
        return {
            "apiVersion": api,
            "kind": kind,
            "name": found["metadata"]["name"],
            "uid": found["metadata"]["uid"],
        }

    async def _service(self, namespace: str, owner: Mapping[str, Any]) -> Object:
        view = self._view
        wanted = mesh_service(view.configuration, namespace, owner)
        for service in view.services.within(namespace):
            name = service["metadata"]["name"]
            if SERVICE_LABEL not in (service["metadata"].get("labels") or {}):
                continue
            if name != view.configuration.service_name or must_be_made_anew(service, wanted):
                await self._writer.delete(view.services, namespace, name)
                if name == view.configuration.service_name:
                    raise Again(f"Service {name} of {namespace} is made anew", 0.2)
        return await self._writer.apply(view.services, wanted)

    async def _secret(self, namespace: str, *, needed: bool) -> Object | None:
        view = self._view
        name = view.etcd_secret()
        own = view.secrets.get(view.settings.namespace, name)
        if namespace == view.settings.namespace:
            return own
        if not needed:
            found = view.secrets.get(namespace, name)
            if found is not None and _is_ours(found):
                await self._writer.delete(view.secrets, namespace, name)
            return None
        if own is None:
            raise Again(f"Secret {name} is not in the controller's namespace, {view.settings.namespace}")
        return await self._writer.apply(view.secrets, secret_for_namespace(own, namespace))

    async def _connect(self, namespace: str) -> None:
        """Makes the client of the mesh, anew where its certificates changed."""
        view = self._view
        tls = view.configuration.tls
        secret = view.secrets.get(view.settings.namespace, tls.secret_name) if tls.secret_name else None
        if tls.secret_name and secret is None:
            raise InvalidCertificates(f"unable to access TLS secret '{tls.secret_name}'")
        version = (tls.secret_name, secret["metadata"]["resourceVersion"] if secret else "")
        mesh = view.meshes.get(namespace)
        if mesh is None or self._secured.get(namespace) != version:
            if mesh is not None:
                await mesh.close()
            credentials: grpc.ChannelCredentials | None = credentials_of(secret) if secret else None
            mesh = MeshClient(credentials, f"{view.configuration.service_name}.{namespace}")
            view.meshes[namespace] = mesh
            self._secured[namespace] = version
            self._started(namespace)
        was_reachable = mesh.reachable
        mesh.reach_at(self._addresses(namespace))
        if mesh.reachable and not was_reachable:
            self._started(namespace)
            if (known := self._events.get(namespace)) is not None:
                known[1].tell_all()

    def _addresses(self, namespace: str) -> list[str]:
        configuration = self._view.configuration
        if configuration.mesh_endpoint:
            return [configuration.mesh_endpoint]
        found = []
        for pod in self._view.pods.within(namespace):
            status = pod.get("status") or {}
            labels = pod["metadata"].get("labels") or {}
            ready = any(
                condition["type"] == "Ready" and condition["status"] == "True"
                for condition in status.get("conditions") or ()
            )
            if ready and labels.get(SERVICE_LABEL) == configuration.service_name and status.get("podIP"):
                host = status["podIP"]
                shown = f"[{host}]" if ":" in host else host
                found.append(f"{shown}:{configuration.service_port}")
        return found

    async def _follow(self, namespace: str, secret: Object) -> None:
        service = self._view.configuration.service_name
        version = (service, secret["metadata"]["resourceVersion"])
        known = self._events.get(namespace)
        if known is not None and known[0] == version:
            return
        await self._unfollow(namespace)
        events = RegistryEvents(
            secret.get("data") or {}, service, lambda source, name: self._heard(namespace, source, name)
        )
        events.start()
        self._events[namespace] = (version, events)

    async def _unfollow(self, namespace: str) -> None:
        if (known := self._events.pop(namespace, None)) is not None:
            await known[1].close()


def _is_ours(found: Object) -> bool:
    labels = found["metadata"].get("labels") or {}
    return bool(labels.get("app.kubernetes.io/managed-by") == CONTROLLER)
