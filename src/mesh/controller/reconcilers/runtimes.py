"""Gives each runtime of a namespace its Deployment, with as many pods as its models need."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from mesh.controller.cluster import ClusterError, Object, fingerprint
from mesh.controller.predictors import (
    InvalidSpec,
    Predictor,
    is_for_the_mesh,
    read_inference_service,
    read_predictor,
    type_of,
)
from mesh.controller.reconcilers.writing import Writer, again
from mesh.controller.runtimes import (
    Autoscaling,
    InvalidAutoscaling,
    InvalidRuntime,
    Live,
    Runtime,
    Scale,
    Surroundings,
    autoscaler,
    check_runtime,
    claims_of_storage,
    deployment_name,
    disruption_budget,
    made_of,
    mounted_claims,
    plan_scale,
    read_autoscaling,
    runtime_deployment,
    serves_type,
)
from mesh.controller.storage import entries_of
from mesh.controller.view import View

_log = logging.getLogger(__name__)

#: Since when no model needs the runtime, seconds since the epoch; kept with the Deployment.
_UNUSED_SINCE = "modelmesh.serving.kserve.io/unused-since"
#: Of what the pods were made. While that is the same they stay as they are, whatever a newer controller would make.
_MADE_OF = "modelmesh.serving.kserve.io/made-of"
#: Of the pods that a controller made of that.
_MADE_AS = "modelmesh.serving.kserve.io/made-as"

#: Before an object is written again that somebody else writes, too; seconds, as in KServe ModelMesh.
_CONFLICT_S = 5.0

RuntimeKey = tuple[str, str]


class RuntimeReconciler:
    """Works on one runtime of one namespace at a time.

    Args:
        view: of the cluster.
        writer: of objects.
    """

    def __init__(self, view: View, writer: Writer) -> None:
        self._view = view
        self._writer = writer
        self._refused: dict[RuntimeKey, str] = {}

    async def reconcile(self, key: RuntimeKey) -> float | None:
        """Brings a runtime's Deployment, autoscaler and disruption budget up to date.

        Returns:
            When to look again, seconds; None to wait for a change.

        Raises:
            Again: it is to be tried again, with back-off.
        """
        namespace, name = key
        runtime = self._view.runtimes_of(namespace).get(name) if self._view.is_enabled(namespace) else None
        try:
            if runtime is None or not runtime.serves:
                await self._remove(namespace, f"{self._view.configuration.service_name}-{name}")
                self._refused.pop(key, None)
                return None
            try:
                autoscaling = read_autoscaling(runtime.annotations, replicas_set=runtime.replicas is not None)
                check_runtime(runtime, self._view.configuration.built_in_server_types)
            except (InvalidAutoscaling, InvalidRuntime) as problem:
                await self._refuse(key, runtime, str(problem))
                return None
            self._refused.pop(key, None)
            return await self._bring_up(namespace, runtime, autoscaling)
        except ClusterError as problem:
            raise again(problem, after_conflict_s=_CONFLICT_S) from problem

    async def _bring_up(
        self, namespace: str, runtime: Runtime, autoscaling: Autoscaling | None
    ) -> float | None:
        view, configuration = self._view, self._view.configuration
        users = list(self._predictors_of(namespace, runtime))
        name = deployment_name(runtime, configuration)
        live = view.deployments.get(namespace, name)
        scale = plan_scale(
            runtime,
            autoscaling,
            needed=bool(users),
            live=_live(live),
            pods_per_runtime=configuration.pods_per_runtime,
            grace_s=configuration.scale_to_zero_after_s,
            now_s=int(time.time()),
        )
        wanted = self._deployment(namespace, runtime, users, scale)
        if live is None or (live["spec"].get("replicas") != scale.replicas):
            _log.info("%s of %s: %d pods, since %s", name, namespace, scale.replicas, scale.why)
        await self._writer.apply(view.deployments, _with_pods_that_may_stay(wanted, live))
        await self._writer.apply(view.budgets, disruption_budget(runtime, configuration, namespace))
        if scale.autoscaled and autoscaling is not None:
            await self._writer.apply(
                view.autoscalers, autoscaler(runtime, autoscaling, configuration, namespace)
            )
        else:
            await self._writer.delete(view.autoscalers, namespace, name)
        return scale.again_after_s

    def _deployment(
        self, namespace: str, runtime: Runtime, users: list[Predictor], scale: Scale
    ) -> dict[str, Any]:
        configuration = self._view.configuration
        surroundings = Surroundings(
            namespace,
            self._view.etcd_secret(),
            self._claims(namespace, users),
            has_ca=self._has_ca(namespace),
        )
        wanted = runtime_deployment(runtime, configuration, surroundings)
        annotations = {_MADE_OF: fingerprint(made_of(runtime, configuration, surroundings))}
        if scale.unused_since_s is not None:
            annotations[_UNUSED_SINCE] = str(scale.unused_since_s)
        wanted["metadata"]["annotations"] = annotations
        wanted["spec"]["replicas"] = scale.replicas
        return wanted

    def _predictors_of(self, namespace: str, runtime: Runtime) -> Iterator[Predictor]:
        """Predictors that this runtime can serve; one that cannot be read needs none."""
        rest = self._view.configuration.rest_proxy.enabled
        for predictor in self._predictors(namespace):
            if serves_type(runtime, type_of(predictor), rest_proxy=rest):
                yield predictor

    def _predictors(self, namespace: str) -> Iterator[Predictor]:
        services = self._view.inference_services
        for resource in self._view.predictors.within(namespace):
            try:
                yield read_predictor(resource)
            except InvalidSpec:
                continue
        for resource in [] if services is None else services.within(namespace):
            if not is_for_the_mesh(resource):
                continue
            try:
                yield read_inference_service(resource)
            except InvalidSpec:
                continue

    def _claims(self, namespace: str, users: list[Predictor]) -> tuple[str, ...]:
        view = self._view
        of_storage, problems = claims_of_storage(
            entries_of(view.secrets.get(namespace, view.configuration.storage_secret_name))
        )
        for problem in problems:
            _log.warning("namespace %s: %s", namespace, problem)
        named = {
            parameters["name"]
            for user in users
            if user.storage and (parameters := user.storage.parameters or {}).get("type") == "pvc"
            if "name" in parameters
        }
        existing = [claim["metadata"]["name"] for claim in view.claims.within(namespace)]
        return mounted_claims(of_storage, named, existing, any_claim=view.configuration.allow_any_pvc)

    def _has_ca(self, namespace: str) -> bool:
        name = self._view.configuration.tls.secret_name
        secret = self._view.secrets.get(namespace, name) if name else None
        return bool(secret and (secret.get("data") or {}).get("ca.crt"))

    async def _refuse(self, key: RuntimeKey, runtime: Runtime, problem: str) -> None:
        """Tells once that a runtime cannot be run; what runs goes on."""
        if self._refused.get(key) == problem:
            return
        self._refused[key] = problem
        _log.error("runtime %s of namespace %s: %s", runtime.name, key[0], problem)
        resource = self._resource(key, runtime)
        if resource is not None:
            await self._view.recorder.tell(resource, "Warning", "InvalidRuntime", problem)

    def _resource(self, key: RuntimeKey, runtime: Runtime) -> Object | None:
        if runtime.kind == "ServingRuntime":
            return self._view.runtimes.get(*key)
        return (
            None if self._view.cluster_runtimes is None else self._view.cluster_runtimes.get("", runtime.name)
        )

    async def _remove(self, namespace: str, name: str) -> None:
        for informer in (self._view.deployments, self._view.autoscalers, self._view.budgets):
            await self._writer.delete(informer, namespace, name)


def _live(deployment: Object | None) -> Live | None:
    if deployment is None:
        return None
    written = (deployment["metadata"].get("annotations") or {}).get(_UNUSED_SINCE, "")
    return Live(deployment["spec"].get("replicas", 1), int(written) if written.isdigit() else None)


def _with_pods_that_may_stay(wanted: dict[str, Any], live: Object | None) -> dict[str, Any]:
    """The wanted Deployment, with the pods that are there where a newer controller makes others of the same.

    So a new release of the controller restarts nothing. What others changed in the pods is still set right.
    """
    mark = wanted["metadata"]["annotations"]
    mark[_MADE_AS] = fingerprint(wanted["spec"]["template"])
    known = {} if live is None else live["metadata"].get("annotations") or {}
    if live is None or known.get(_MADE_OF) != mark[_MADE_OF] or known.get(_MADE_AS) == mark[_MADE_AS]:
        return wanted
    mark[_MADE_AS] = known.get(_MADE_AS, "")
    return {**wanted, "spec": {**wanted["spec"], "template": live["spec"]["template"]}}
