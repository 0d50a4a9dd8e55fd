"""What to ask of the mesh for a predictor, and what follows from its answer."""

from dataclasses import dataclass
from typing import Literal

from mesh.controller.predictors.model_id import model_id
from mesh.controller.predictors.model_info import info_of
from mesh.controller.predictors.predictor import Predictor
from mesh.controller.predictors.status import (
    FailureReason,
    ModelState,
    Status,
    Transition,
    from_vmodel,
    invalid,
    taken,
    without_pods,
)
from mesh.protos.model_mesh_pb2 import SetVModelRequest, VModelStatusInfo

#: The end of a load makes no event that the controller hears of, so it asks. Seconds, as in KServe ModelMesh.
_LOADING_S = 1.0
#: Between looks whether there is a pod that can load the model. Seconds, as in KServe ModelMesh.
_WAITING_S = 3.0
#: Between looks whether there is a runtime now for a model that none supported. Seconds.
_UNSUPPORTED_S = 30.0
_UNSUPPORTED = frozenset({FailureReason.NO_RUNTIME, FailureReason.UNKNOWN_RUNTIME})


@dataclass(frozen=True, slots=True)
class NoPods:
    """The mesh has no pod that is ready, or is not known yet."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The vmodel of that name belongs to another resource."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The mesh did not do it.

    Attributes:
        why: its status and message.
    """

    why: str


Answer = VModelStatusInfo | NoPods | Taken | Refused


@dataclass(frozen=True, slots=True)
class Happening:
    """What is told as an Event of the resource."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What follows for the resource.

    Attributes:
        status: to be written where it differs from the one there is.
        again_after_s: when to look again; None to wait for the next event.
        problem: why this is to be tried again, with back-off; "" where it is not.
        happening: None where there is nothing to tell.
    """

    status: Status
    again_after_s: float | None = None
    problem: str = ""
    happening: Happening | None = None


def set_request(
    predictor: Predictor, status: Status, *, deleting: bool, set_before: str = ""
) -> SetVModelRequest:
    """The call that makes a predictor's vmodel what is written; called again, it changes nothing.

    Args:
        predictor: as written.
        status: as it was, which tells whether to load.
        deleting: whether the resource is being deleted.
        set_before: model that was set last; "" where that is not known.
    """
    model = model_id(predictor)
    # What is written as loading may have failed since, so that it gives its place away without a load.
    replaces_a_load = status.active is ModelState.LOADING and set_before not in {"", model}
    return SetVModelRequest(
        vModelId=predictor.name,
        owner=str(predictor.source),
        targetModelId=model,
        modelInfo=info_of(predictor),
        autoDeleteTargetModel=True,
        loadNow=not deleting and (status.asks_for_load or replaces_a_load),
    )


def conclude(predictor: Predictor, before: Status, answer: Answer, now_s: int) -> Outcome:
    """What follows from the mesh's answer to `set_request`.

    Args:
        predictor: as written.
        before: the status as it was.
        answer: the mesh's.
        now_s: seconds since the epoch.
    """
    match answer:
        case NoPods():
            after = without_pods(before, model_id(predictor))
            return Outcome(after, _WAITING_S, happening=_told(before, after))
        case Taken():
            after = taken(before)
            problem = f"vmodel {predictor.name} belongs to a resource of another kind: rename one of them"
            return Outcome(after, problem=problem, happening=_told(before, after))
        case Refused(why):
            return Outcome(before, problem=f"the mesh did not set vmodel {predictor.name}: {why}")
    after = from_vmodel(before, answer, now_s)
    again = None
    if after.waits_for_runtime:
        again = _WAITING_S
    elif after.active is ModelState.LOADING:
        again = _LOADING_S
    elif after.failure is not None and after.failure.reason in _UNSUPPORTED:
        again = _UNSUPPORTED_S
    return Outcome(after, again, happening=_told(before, after))


def conclude_invalid(before: Status, answer: Answer, problem: str) -> Outcome:
    """What follows for a resource that cannot be served as it is written.

    Args:
        before: the status as it was.
        answer: the mesh's, asked for the vmodel's status.
        problem: what is wrong, and what to change.
    """
    vmodel = None
    if isinstance(answer, VModelStatusInfo) and answer.status != VModelStatusInfo.NOT_FOUND:
        vmodel = answer
    after = invalid(before, vmodel, problem, "")
    return Outcome(
        after,
        again_after_s=_WAITING_S if isinstance(answer, NoPods) else None,
        problem=answer.why if isinstance(answer, Refused) else "",
        happening=_told(before, after),
    )


def _told(before: Status, after: Status) -> Happening | None:
    failure = after.failure
    if failure is not None:
        known = before.failure
        if known is not None and (known.reason, known.message) == (failure.reason, failure.message):
            return None
        waiting = failure.reason is FailureReason.RUNTIME_UNHEALTHY
        return Happening("Normal" if waiting else "Warning", str(failure.reason), failure.message)
    arrived = after.active is ModelState.LOADED and after.transition is Transition.UP_TO_DATE
    if arrived and (before.active, before.transition) != (after.active, after.transition):
        return Happening("Normal", "ModelLoaded", f"Loaded, with {after.total_copies} copies")
    return None
