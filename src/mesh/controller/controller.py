"""The controller's process: follows the cluster, and works on what changes while it leads."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from kubernetes.aio.client import ApiClient

from mesh.controller.cluster import (
    AUTOSCALERS,
    CLUSTER_SERVING_RUNTIMES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    INFERENCE_SERVICES,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    PREDICTORS,
    SECRETS,
    SERVICE_MONITORS,
    SERVICES,
    SERVING_RUNTIMES,
    VOLUME_CLAIMS,
    Cluster,
    Informer,
    Kind,
    Object,
    Recorder,
    WorkQueue,
    lead,
)
from mesh.controller.configuration import Configuration, InvalidConfiguration, read_configuration
from mesh.controller.dispatch import Dispatcher
from mesh.controller.namespaces.constraints import NAME as CONSTRAINTS
from mesh.controller.reconcilers import (
    NamespaceReconciler,
    PredictorKey,
    PredictorReconciler,
    RuntimeReconciler,
    Writer,
)
from mesh.controller.runtimes import SERVICE_LABEL
from mesh.controller.settings import ControllerSettings, InvalidSetting, Switch
from mesh.controller.view import View

_log = logging.getLogger(__name__)

#: Member of the ConfigMaps of users, and of the defaults file, that holds the configuration.
CONFIG_MEMBER = "config.yaml"
#: Time for all kinds to be listed once, seconds.
_SYNC_S = 60.0


class Controller:
    """Runs meshes in a cluster.

    Args:
        client: of the Kubernetes API.
        settings: of the process.
    """

    def __init__(self, client: ApiClient, settings: ControllerSettings) -> None:
        self._client = client
        self._settings = settings
        self._cluster = Cluster(client)
        self._defaults = _read_defaults(settings)
        self._view: View | None = None
        self.queues: dict[str, WorkQueue[Any]] = {}
        self.ready = False
        self.leads = False

    @property
    def view(self) -> View:
        """What is known of the cluster; there since `run` began to follow it."""
        if self._view is None:
            raise RuntimeError("the controller does not run")
        return self._view

    @property
    def server_types(self) -> Sequence[str]:
        """Model servers that have an adapter, by the configuration as far as it is known."""
        configuration = read_configuration(self._defaults) if self._view is None else self._view.configuration
        return configuration.built_in_server_types

    async def run(self) -> None:
        """Runs until cancelled, or until this controller does not lead any more.

        Raises:
            InvalidSetting: the cluster does not let the controller do what it was told to.
            InvalidConfiguration: the configuration cannot be used at the start.
            ClusterError: the API server could not be reached at the start.
        """
        self._view = await self._open_view()
        async with asyncio.TaskGroup() as group:
            for informer in self.view.informers():
                group.create_task(informer.run(), name=f"informer {informer.kind.plural}")
            await _synced(self.view.informers())
            self.view.configuration = self._read_configuration()
            self.ready = True
            election = self._settings.election
            if election is None:
                await self._work()
            else:
                settings = self._settings
                await lead(self._cluster, settings.namespace, settings.identity, election, self._work)
            raise LeadershipLost

    async def _work(self) -> None:
        view = self.view
        predictors: WorkQueue[PredictorKey] = WorkQueue("predictor", workers=16)
        runtimes: WorkQueue[tuple[str, str]] = WorkQueue("runtime")
        namespaces: WorkQueue[str] = WorkQueue("namespace", workers=4)
        self.queues = {"predictor": predictors, "runtime": runtimes, "namespace": namespaces}
        dispatcher = Dispatcher(view, predictors, runtimes, namespaces, self._configure)
        writer = Writer(self._cluster)
        of_namespaces = NamespaceReconciler(view, writer, dispatcher.heard, dispatcher.mesh_started)
        dispatcher.start()
        self.leads = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(predictors.run(PredictorReconciler(view).reconcile))
                group.create_task(runtimes.run(RuntimeReconciler(view, writer).reconcile))
                group.create_task(namespaces.run(of_namespaces.reconcile))
        finally:
            self.leads = False
            await of_namespaces.close()

    async def _open_view(self) -> View:
        settings = self._settings
        cluster, own = self._cluster, "" if settings.cluster_scope else settings.namespace
        if settings.cluster_scope and not await cluster.has(NAMESPACES):
            raise InvalidSetting(
                "the controller may not list namespaces: give it the cluster's roles, or set NAMESPACE_SCOPE=true"
            )

        def follow(kind: Kind, **options: Any) -> Informer:
            return Informer(
                cluster, kind, namespace=own if kind.namespaced else "", **{"keep": _slim, **options}
            )

        async def follow_if(kind: Kind, switch: Switch, name: str) -> Informer | None:
            if switch is Switch.OFF:
                return None
            if await cluster.has(kind, own if kind.namespaced else ""):
                return follow(kind)
            if switch is Switch.ON:
                raise InvalidSetting(
                    f"{name} is true, but {kind.plural} cannot be listed: install the kind or give the role"
                )
            return None

        cluster_runtimes = settings.cluster_runtimes if settings.cluster_scope else Switch.OFF
        return View(
            cluster=cluster,
            recorder=Recorder(cluster, settings.identity),
            settings=settings,
            configuration=read_configuration(self._defaults),
            namespaces=follow(NAMESPACES) if settings.cluster_scope else None,
            predictors=follow(PREDICTORS),
            inference_services=await follow_if(
                INFERENCE_SERVICES, settings.inference_services, "ENABLE_ISVC_WATCH"
            ),
            runtimes=follow(SERVING_RUNTIMES),
            cluster_runtimes=await follow_if(CLUSTER_SERVING_RUNTIMES, cluster_runtimes, "ENABLE_CSR_WATCH"),
            deployments=follow(DEPLOYMENTS),
            autoscalers=follow(AUTOSCALERS),
            budgets=follow(DISRUPTION_BUDGETS),
            policies=follow(NETWORK_POLICIES),
            services=follow(SERVICES),
            config_maps=follow(CONFIG_MAPS, keep=self._keep_config_map),
            secrets=follow(SECRETS),
            claims=follow(VOLUME_CLAIMS),
            pods=follow(PODS, selector=SERVICE_LABEL, keep=_slim_pod),
            monitors=await follow_if(SERVICE_MONITORS, Switch.WHERE_POSSIBLE, ""),
        )

    def _keep_config_map(self, found: Object) -> Object:
        """Of other ConfigMaps the names are enough, and there may be many and large ones."""
        if found["metadata"]["name"] in {self._settings.config_map, CONSTRAINTS}:
            return _slim(found)
        return {"metadata": _slim(found)["metadata"]}

    def _configure(self) -> bool:
        """Reads the configuration; one that cannot be used leaves the one before.

        Returns:
            Whether it changed.
        """
        try:
            configuration = self._read_configuration()
        except InvalidConfiguration as problem:
            _log.error(
                "ConfigMap %s: %s; the configuration stays as it was", self._settings.config_map, problem
            )
            return False
        changed = configuration != self.view.configuration
        self.view.configuration = configuration
        for warning in configuration.warnings if changed else ():
            _log.warning("ConfigMap %s: %s", self._settings.config_map, warning)
        return changed

    def _read_configuration(self) -> Configuration:
        found = self.view.config_maps.get(self._settings.namespace, self._settings.config_map)
        if found is None:
            return read_configuration(self._defaults)
        data = found.get("data") or {}
        if CONFIG_MEMBER not in data:
            raise InvalidConfiguration(f"it has no member {CONFIG_MEMBER}")
        return read_configuration(self._defaults, _mapping(data[CONFIG_MEMBER], CONFIG_MEMBER))


class LeadershipLost(Exception):
    """Another controller leads, or none can be known to lead; a new process takes this one's place in the row."""


async def _synced(informers: Iterable[Informer]) -> None:
    for informer in informers:
        try:
            async with asyncio.timeout(_SYNC_S):
                await informer.synced.wait()
        except TimeoutError:
            raise InvalidSetting(
                f"{informer.kind.plural} could not be listed within {_SYNC_S:.0f} s: the log says why"
            ) from None


def _read_defaults(settings: ControllerSettings) -> Any:
    if settings.defaults_file is None:
        return {}
    return _mapping(settings.defaults_file.read_text(), str(settings.defaults_file))


def _mapping(text: str, where: str) -> Any:
    try:
        read = yaml.safe_load(text) or {}
    except yaml.YAMLError as problem:
        raise InvalidConfiguration(f"{where} is no YAML: {problem}") from problem
    if not isinstance(read, dict):
        raise InvalidConfiguration(f"{where} must be a mapping")
    return read


def _slim(found: Object) -> Object:
    """Without what the controller never reads, and what is large."""
    metadata = {name: value for name, value in found["metadata"].items() if name != "managedFields"}
    return {**found, "metadata": metadata}


def _slim_pod(found: Object) -> Object:
    status = found.get("status") or {}
    kept = {name: status.get(name) for name in ("podIP", "conditions", "phase")}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _slim(found)["metadata"],
        "status": kept,
    }
