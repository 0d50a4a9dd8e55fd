"""Which predictors, runtimes and namespaces to look at when something in the cluster changes."""

from collections.abc import Callable
from typing import Any

from mesh.controller.cluster import SECRETS, Object, WorkQueue
from mesh.controller.namespaces.constraints import NAME as CONSTRAINTS
from mesh.controller.predictors import Source, is_for_the_mesh
from mesh.controller.reconcilers import PredictorKey
from mesh.controller.runtimes import SERVICE_LABEL
from mesh.controller.settings import Switch
from mesh.controller.view import View

#: What the registry says of one predictor within such a time is looked at once, seconds.
_HEARD_S = 0.2
#: Likewise what changes of a namespace's predictors: each look at a runtime goes through all of them. Seconds.
_GATHERED_S = 0.3
#: Nearly always the controller itself changed the status, and has nothing new to do; else it sets it right. Seconds.
_ONLY_STATUS_S = 5.0


class Dispatcher:
    """Fills the queues.

    Args:
        view: whose changes count.
        predictors: queue of predictors.
        runtimes: queue of namespaces and names of runtimes.
        namespaces: queue of namespaces.
        configure: reads the user's configuration anew; tells whether it changed.
    """

    def __init__(
        self,
        view: View,
        predictors: WorkQueue[PredictorKey],
        runtimes: WorkQueue[tuple[str, str]],
        namespaces: WorkQueue[str],
        configure: Callable[[], bool],
    ) -> None:
        self._view = view
        self._predictors = predictors
        self._runtimes = runtimes
        self._namespaces = namespaces
        self._configure = configure

    def start(self) -> None:
        """Has everything looked at once, and what changes from now on."""
        view = self._view
        view.predictors.subscribe(
            lambda before, after: self._resource_changed(Source.PREDICTOR, before, after)
        )
        if view.inference_services is not None:
            view.inference_services.subscribe(
                lambda before, after: self._resource_changed(Source.INFERENCE_SERVICE, before, after)
            )
        if view.namespaces is not None:
            view.namespaces.subscribe(self._namespace_changed)
        else:
            self._look_at(view.settings.namespace)
        for informer in (view.runtimes, view.claims, view.secrets):
            informer.subscribe(self._namespaced_changed)
        if view.cluster_runtimes is not None:
            view.cluster_runtimes.subscribe(lambda before, after: self.look_at_all())
        for informer in (view.services, view.policies, view.pods):
            informer.subscribe(self._mesh_object_changed)
        if view.monitors is not None:
            view.monitors.subscribe(self._mesh_object_changed)
        for informer in (view.deployments, view.autoscalers, view.budgets):
            informer.subscribe(self._runtime_object_changed)
        view.config_maps.subscribe(self._config_map_changed)

    def heard(self, namespace: str, source: Source, name: str) -> None:
        """Has a predictor looked at of which the registry says something new."""
        self._predictors.add_after(PredictorKey(source, namespace, name), _HEARD_S)

    def mesh_started(self, namespace: str) -> None:
        """Has all predictors of a namespace looked at, whose mesh can be asked from now on."""
        for resource in self._view.predictors.within(namespace):
            self._predictors.add(PredictorKey(Source.PREDICTOR, namespace, resource["metadata"]["name"]))
        services = self._view.inference_services
        for resource in [] if services is None else services.within(namespace):
            if is_for_the_mesh(resource):
                self._predictors.add(
                    PredictorKey(Source.INFERENCE_SERVICE, namespace, resource["metadata"]["name"])
                )

    def look_at_all(self) -> None:
        """Has all namespaces looked at, with their runtimes."""
        for namespace in self._view.enabled_namespaces():
            self._look_at(namespace)

    def _look_at(self, namespace: str) -> None:
        self._namespaces.add(namespace)
        self._look_at_runtimes(namespace)

    def _look_at_runtimes(self, namespace: str) -> None:
        for name in self._view.runtimes_of(namespace):
            self._runtimes.add((namespace, name))
        # A Deployment may be all that is left of a runtime.
        for deployment in self._view.deployments.within(namespace):
            self._runtime_object_changed(None, deployment)

    def _resource_changed(self, source: Source, before: Object | None, after: Object | None) -> None:
        found = _either(before, after)
        is_the_meshs = source is Source.PREDICTOR or any(
            resource is not None and is_for_the_mesh(resource) for resource in (before, after)
        )
        # One that is not the mesh's may have been when nobody looked; that is asked once.
        if not is_the_meshs and before is not None:
            return
        metadata = found["metadata"]
        key = PredictorKey(source, metadata["namespace"], metadata["name"])
        if before is not None and after is not None and _written(before) == _written(after):
            self._predictors.add_after(key, _ONLY_STATUS_S)
            return
        self._predictors.add(key)
        if is_the_meshs:
            for name in self._view.runtimes_of(metadata["namespace"]):
                self._runtimes.add_after((metadata["namespace"], name), _GATHERED_S)

    def _namespace_changed(self, before: Object | None, after: Object | None) -> None:
        if before is None or after is None or _gates(before) != _gates(after):
            self._look_at(_either(before, after)["metadata"]["name"])

    def _namespaced_changed(self, before: Object | None, after: Object | None) -> None:
        found = _either(before, after)
        namespace, name = found["metadata"]["namespace"], found["metadata"]["name"]
        if found["kind"] != SECRETS.kind:
            self._look_at(namespace)
        elif name in self._secrets():
            if namespace == self._view.settings.namespace:
                self.look_at_all()
            else:
                self._look_at(namespace)

    def _secrets(self) -> set[str]:
        """Names of those that count when they change; the storage's only where that is not switched off."""
        configuration = self._view.configuration
        names = {self._view.etcd_secret(), configuration.tls.secret_name}
        if self._view.settings.secrets is not Switch.OFF:
            names.add(configuration.storage_secret_name)
        return names

    def _mesh_object_changed(self, before: Object | None, after: Object | None) -> None:
        metadata = _either(before, after)["metadata"]
        if SERVICE_LABEL in (metadata.get("labels") or {}):
            self._namespaces.add(metadata["namespace"])

    def _runtime_object_changed(self, before: Object | None, after: Object | None) -> None:
        metadata = _either(before, after)["metadata"]
        service = (metadata.get("labels") or {}).get(SERVICE_LABEL)
        if service is not None:
            self._runtimes.add((metadata["namespace"], metadata["name"].removeprefix(f"{service}-")))

    def _config_map_changed(self, before: Object | None, after: Object | None) -> None:
        metadata = _either(before, after)["metadata"]
        settings = self._view.settings
        if (metadata["namespace"], metadata["name"]) == (settings.namespace, settings.config_map):
            if self._configure():
                self.look_at_all()
                # Their status tells where they are reached.
                for namespace in self._view.enabled_namespaces():
                    self.mesh_started(namespace)
        elif metadata["name"] == CONSTRAINTS:
            self._namespaces.add(metadata["namespace"])


def _either(before: Object | None, after: Object | None) -> Object:
    found = after or before
    if found is None:
        raise ValueError("a change of nothing")
    return found


def _written(resource: Object) -> tuple[Any, ...]:
    """What users write of a resource, and not the controller."""
    metadata = resource["metadata"]
    return (
        resource.get("spec"),
        metadata["uid"],
        metadata.get("annotations"),
        metadata.get("deletionTimestamp"),
    )


def _gates(namespace: Object) -> tuple[Any, Any]:
    """What decides whether a namespace has a mesh."""
    return namespace["metadata"].get("labels"), (namespace.get("status") or {}).get("phase")
