"""What users read of a predictor, decided from what the mesh says of its vmodel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from mesh.controller.runtimes.labels import NO_RUNTIME_LABEL
from mesh.placement import NO_HOME
from mesh.protos.model_mesh_pb2 import ModelStatusInfo, VModelStatusInfo

#: A failure that is about now, not about one event, keeps its time for so long: each change of the status brings the
#: resource back to the controller, as in KServe ModelMesh. Seconds.
_SAME_TIME_S = 20


class ModelState(StrEnum):
    """State of the model that serves now, or that is to."""

    NONE = ""
    PENDING = "Pending"
    STANDBY = "Standby"
    LOADING = "Loading"
    LOADED = "Loaded"
    FAILED = "FailedToLoad"


class Transition(StrEnum):
    """Whether what serves now is what is written."""

    NONE = ""
    UP_TO_DATE = "UpToDate"
    IN_PROGRESS = "InProgress"
    BLOCKED = "BlockedByFailedLoad"
    INVALID_SPEC = "InvalidSpec"


class FailureReason(StrEnum):
    """Class of a failure."""

    LOAD_FAILED = "ModelLoadFailed"
    RUNTIME_UNHEALTHY = "RuntimeUnhealthy"
    NO_RUNTIME = "NoSupportingRuntime"
    UNKNOWN_RUNTIME = "RuntimeNotRecognized"
    INVALID_SPEC = "InvalidPredictorSpec"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the model that is to serve does not.

    Attributes:
        model_id: of the model, "" where it is about none.
        location: pod in which it failed, "" where it is about none.
        time_s: when, seconds since the epoch; None where unknown.
    """

    reason: FailureReason
    message: str
    model_id: str = ""
    location: str = ""
    time_s: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A predictor's status, whatever resource it is written to.

    Attributes:
        available: whether requests are answered, if need be after a load.
        active: of the model that serves now.
        target: of the model that is to follow; NONE where that is the same.
        total_copies: of both models, whatever their state.
        failed_copies: that could not be loaded lately.
    """

    available: bool = False
    transition: Transition = Transition.UP_TO_DATE
    active: ModelState = ModelState.PENDING
    target: ModelState = ModelState.NONE
    failure: Failure | None = None
    total_copies: int = 0
    failed_copies: int = 0

    @property
    def waits_for_runtime(self) -> bool:
        """Whether all that is missing is a pod that can load the model."""
        return self.failure is not None and self.failure.reason is FailureReason.RUNTIME_UNHEALTHY

    @property
    def asks_for_load(self) -> bool:
        """Whether the mesh should load the model when it is set.

        A model that is loaded, or was and is not used, stays as it is when the controller looks at it again.
        """
        return (
            self.active in {ModelState.PENDING, ModelState.FAILED}
            or self.target is not ModelState.NONE
            or (self.active is ModelState.LOADING and self.waits_for_runtime)
        )


@dataclass(frozen=True, slots=True)
class _Decoded:
    state: ModelState
    reason: FailureReason | None = None
    message: str = ""

    @property
    def waits_for_runtime(self) -> bool:
        return self.reason is FailureReason.RUNTIME_UNHEALTHY

    @property
    def has_copies(self) -> bool:
        # What the mesh says of copies that no instance could have taken is about none.
        return self.reason in {None, FailureReason.LOAD_FAILED}


_STATES = {
    ModelStatusInfo.NOT_LOADED: ModelState.STANDBY,
    ModelStatusInfo.LOADING: ModelState.LOADING,
    ModelStatusInfo.LOADED: ModelState.LOADED,
    ModelStatusInfo.LOADING_FAILED: ModelState.FAILED,
}
_TRANSITIONS = {
    VModelStatusInfo.DEFINED: Transition.UP_TO_DATE,
    VModelStatusInfo.TRANSITIONING: Transition.IN_PROGRESS,
    VModelStatusInfo.TRANSITION_FAILED: Transition.BLOCKED,
}


def _decode(status: ModelStatusInfo | None, unknown: ModelState) -> _Decoded:
    if status is None:
        return _Decoded(ModelState.PENDING)
    state = _STATES.get(status.status, unknown)
    message = status.errors[0] if status.errors else ""
    if state is not ModelState.FAILED:
        return _Decoded(state, FailureReason.LOAD_FAILED, message) if message else _Decoded(state)
    if not message.startswith(NO_HOME):
        return _Decoded(state, FailureReason.LOAD_FAILED, message)
    if not message.endswith(f"[{NO_RUNTIME_LABEL}]"):
        return _Decoded(
            ModelState.LOADING,
            FailureReason.RUNTIME_UNHEALTHY,
            "Waiting for supporting runtime Pod to become available",
        )
    if message[len(NO_HOME) :].startswith("rt:"):
        return _Decoded(state, FailureReason.UNKNOWN_RUNTIME, "Specified runtime name not recognized")
    return _Decoded(
        state,
        FailureReason.NO_RUNTIME,
        "No ServingRuntime supports specified model type and/or protocol",
    )


def from_vmodel(before: Status, vmodel: VModelStatusInfo, now_s: int) -> Status:
    """The status after the mesh has answered.

    A model whose state the mesh does not know keeps the one it had. One that serves counts as available while the one
    that is to follow waits for a runtime.

    Args:
        before: as it was.
        vmodel: the mesh's answer.
        now_s: seconds since the epoch.
    """
    read = _read(before, vmodel)
    transition = _TRANSITIONS.get(vmodel.status, Transition.NONE)
    target = read.target_status
    if transition is Transition.BLOCKED and target is not None and target.status == ModelStatusInfo.LOADING:
        transition = Transition.IN_PROGRESS
    return replace(read.status, transition=transition, failure=_failure(before, vmodel, read, now_s))


def invalid(before: Status, vmodel: VModelStatusInfo | None, problem: str, predictor_model_id: str) -> Status:
    """The status of a resource that cannot be served as it is written; what served before goes on serving.

    Args:
        before: as it was.
        vmodel: what the mesh says of the vmodel as it was before; None where it was not asked or knows none.
        problem: what is wrong, and what to change.
        predictor_model_id: id of the model that is asked for; "" where it cannot be told.
    """
    status = before if vmodel is None else _read(before, vmodel).status
    failure = Failure(FailureReason.INVALID_SPEC, problem, predictor_model_id)
    return replace(status, transition=Transition.INVALID_SPEC, failure=failure)


def without_pods(before: Status, model_id: str) -> Status:
    """The status where the mesh has no pod to ask: what was known of the models stays."""
    return replace(
        before,
        failure=Failure(
            FailureReason.RUNTIME_UNHEALTHY, "Waiting for runtime Pod to become available", model_id
        ),
    )


def taken(before: Status) -> Status:
    """The status of a resource whose name is that of another kind's, which serves already."""
    return replace(
        before,
        failure=Failure(
            FailureReason.INVALID_SPEC, "Predictor already exists with the same name from a different source"
        ),
    )


@dataclass(frozen=True, slots=True)
class _Read:
    status: Status
    target: _Decoded
    target_status: ModelStatusInfo | None


def _read(before: Status, vmodel: VModelStatusInfo) -> _Read:
    active_status = vmodel.activeModelStatus if vmodel.HasField("activeModelStatus") else None
    active = target = _decode(active_status, before.active)
    target_status, sides = active_status, [(active, active_status)]
    shown = ModelState.NONE
    if vmodel.activeModelId != vmodel.targetModelId:
        target_status = vmodel.targetModelStatus if vmodel.HasField("targetModelStatus") else None
        target = _decode(target_status, before.target)
        shown = target.state if target_status is not None else before.target
        sides.append((target, target_status))
    copies = [
        copy.copyStatus
        for decoded, status in sides
        if status is not None and decoded.has_copies
        for copy in status.modelCopyInfos
    ]
    status = replace(
        before,
        active=active.state,
        target=shown,
        available=active.state not in {ModelState.NONE, ModelState.FAILED} and not active.waits_for_runtime,
        total_copies=len(copies),
        failed_copies=copies.count(ModelStatusInfo.LOADING_FAILED),
    )
    return _Read(status, target, target_status)


def _failure(before: Status, vmodel: VModelStatusInfo, read: _Read, now_s: int) -> Failure | None:
    if read.target_status is None or read.target_status.status == ModelStatusInfo.LOADED:
        return None
    if read.target.reason is None:
        # A load that is tried again has not succeeded yet.
        return before.failure if before.waits_for_runtime else None
    failure = Failure(read.target.reason, read.target.message, vmodel.targetModelId)
    if failure.reason is not FailureReason.LOAD_FAILED:
        known = None if before.failure is None else before.failure.time_s
        return replace(failure, time_s=now_s if known is None or now_s - known > _SAME_TIME_S else known)
    copy = _first_failed(read.target_status.modelCopyInfos)
    if copy is None:
        return failure
    return replace(failure, location=copy.location, time_s=copy.time // 1000 if copy.time else None)


def _first_failed(copies: Sequence[ModelStatusInfo.ModelCopyInfo]) -> ModelStatusInfo.ModelCopyInfo | None:
    return next((copy for copy in copies if copy.copyStatus == ModelStatusInfo.LOADING_FAILED), None)
