"""Keeps the vmodels of a namespace's mesh what its Predictors and InferenceServices say, and their status true."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mesh.controller.cluster import (
    INFERENCE_SERVICES,
    PREDICTORS,
    Again,
    ClusterError,
    Informer,
    Kind,
    Object,
)
from mesh.controller.mesh_client import MeshClient
from mesh.controller.namespaces import endpoints_of
from mesh.controller.predictors import (
    Answer,
    Endpoints,
    InvalidSpec,
    NoPods,
    Outcome,
    Predictor,
    Refused,
    Source,
    Status,
    conclude,
    conclude_invalid,
    inference_service_status,
    is_for_the_mesh,
    model_id,
    predictor_status,
    read_inference_service,
    read_predictor,
    set_request,
    write_inference_service,
    write_predictor,
)
from mesh.controller.reconcilers.writing import again
from mesh.controller.view import View
from mesh.placement import CopyPolicy
from mesh.protos.model_mesh_pb2 import VModelStatusInfo

_log = logging.getLogger(__name__)

#: Before a deletion is tried again while there is no pod to ask, seconds; as in KServe ModelMesh.
_DELETION_S = 10.0
#: Before a predictor is looked at again whose namespace has no mesh yet, seconds; as in KServe ModelMesh.
_NO_MESH_S = 3.0
#: Before a status is written again that somebody else has changed meanwhile, seconds: the change is on its way here.
_CONFLICT_S = 0.05


@dataclass(frozen=True, slots=True)
class PredictorKey:
    """A Predictor or InferenceService."""

    source: Source
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}_{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class _Form:
    """How one kind of resource is read and written."""

    kind: Kind
    read: Callable[[Mapping[str, Any]], Predictor]
    status: Callable[[Mapping[str, Any]], Status]
    write: Callable[[Mapping[str, Any], Status, Endpoints, int], dict[str, Any]]


_FORMS = {
    Source.PREDICTOR: _Form(
        PREDICTORS,
        read_predictor,
        predictor_status,
        lambda before, status, endpoints, now_s: write_predictor(status, endpoints),
    ),
    Source.INFERENCE_SERVICE: _Form(
        INFERENCE_SERVICES, read_inference_service, inference_service_status, write_inference_service
    ),
}


class PredictorReconciler:
    """Works on one resource at a time.

    Args:
        view: of the cluster.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        # Of what was set by this process: the model, and the model with its policy.
        self._set: dict[PredictorKey, str] = {}
        self._policies: dict[PredictorKey, tuple[str, CopyPolicy]] = {}

    async def reconcile(self, key: PredictorKey) -> float | None:
        """Brings a resource's vmodel and status up to date.

        Returns:
            When to look again, seconds; None to wait for a change.

        Raises:
            Again: it is to be tried again, with back-off.
        """
        resource = self._resource(key)
        mesh = self._view.meshes.get(key.namespace)
        if resource is None:
            return await self._remove(key, mesh)
        if mesh is None:
            return _NO_MESH_S if self._view.is_enabled(key.namespace) else None
        form = _FORMS[key.source]
        before = form.status(resource)
        now_s = int(time.time())
        try:
            predictor = form.read(resource)
        except InvalidSpec as problem:
            told = await mesh.vmodel_status(key.name, key.source)
            outcome = conclude_invalid(before, told, str(problem))
            await self._write(form, resource, outcome, now_s)
        else:
            deleting = resource["metadata"].get("deletionTimestamp") is not None
            request = set_request(predictor, before, deleting=deleting, set_before=self._set.get(key, ""))
            answer = await mesh.set_vmodel(request)
            if isinstance(answer, VModelStatusInfo):
                self._set[key] = request.targetModelId
            outcome = conclude(predictor, before, answer, now_s)
            await self._write(form, resource, outcome, now_s)
            await self._set_policy(key, mesh, predictor, answer)
        if outcome.problem:
            raise Again(outcome.problem)
        return outcome.again_after_s

    def _resource(self, key: PredictorKey) -> Object | None:
        informer = self._informer(_FORMS[key.source].kind)
        found = None if informer is None else informer.get(key.namespace, key.name)
        if found is not None and key.source is Source.INFERENCE_SERVICE and not is_for_the_mesh(found):
            return None
        return found

    async def _remove(self, key: PredictorKey, mesh: MeshClient | None) -> float | None:
        self._policies.pop(key, None)
        self._set.pop(key, None)
        if mesh is None:
            return None
        match await mesh.delete_vmodel(key.name, key.source):
            case NoPods():
                # Services that are not the mesh's come here, too; they are not asked about for ever.
                return _DELETION_S if key.source is Source.PREDICTOR else None
            case Refused(why):
                raise Again(f"vmodel {key.name} could not be deleted: {why}")
        return None

    async def _set_policy(
        self, key: PredictorKey, mesh: MeshClient, predictor: Predictor, answer: Answer
    ) -> None:
        """Sets the policy where this process does not know that it is so already, as after a restart."""
        if not isinstance(answer, VModelStatusInfo):
            return
        model = model_id(predictor)
        if self._policies.get(key) == (model, predictor.policy):
            return
        match await mesh.set_policy(model, predictor.policy):
            case None:
                self._policies[key] = (model, predictor.policy)
            case Refused(why):
                raise Again(f"the policy of model {model} could not be set: {why}")
            case NoPods():
                raise Again(f"the policy of model {model} could not be set: no pod is ready", _NO_MESH_S)

    async def _write(self, form: _Form, resource: Object, outcome: Outcome, now_s: int) -> None:
        endpoints = endpoints_of(self._view.configuration, resource["metadata"]["namespace"])
        before = resource.get("status") or {}
        after = form.write(before, outcome.status, endpoints, now_s)
        if after != before:
            try:
                written = await self._view.cluster.replace_status(form.kind, {**resource, "status": after})
            except ClusterError as problem:
                if problem.missing:
                    return
                raise again(problem, after_conflict_s=_CONFLICT_S) from problem
            if (informer := self._informer(form.kind)) is not None:
                informer.note(written)
        if (happening := outcome.happening) is not None:
            await self._view.recorder.tell(resource, happening.type, happening.reason, happening.message)

    def _informer(self, kind: Kind) -> Informer | None:
        return self._view.predictors if kind is PREDICTORS else self._view.inference_services
