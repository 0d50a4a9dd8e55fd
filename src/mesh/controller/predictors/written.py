"""A predictor's status as the resources of users hold it: read from them, and written back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from mesh.controller.predictors.status import Failure, FailureReason, ModelState, Status, Transition

_CONDITIONS = ("PredictorReady", "Ready")
_Known = TypeVar("_Known", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a namespace's models are reached.

    Attributes:
        grpc: for example ``grpc://modelmesh-serving.models:8033``.
        rest: None where there is no REST proxy.
    """

    grpc: str
    rest: str | None


def predictor_status(resource: Mapping[str, Any]) -> Status:
    """Reads the status of a Predictor."""
    written = resource.get("status") or {}
    return Status(
        available=written.get("available", False),
        transition=_known(Transition, written.get("transitionStatus"), Transition.UP_TO_DATE),
        active=_known(ModelState, written.get("activeModelState"), ModelState.PENDING),
        target=_known(ModelState, written.get("targetModelState"), ModelState.NONE),
        failure=_failure(written.get("lastFailureInfo"), "modelId"),
        total_copies=written.get("totalCopies", 0),
        failed_copies=written.get("failedCopies", 0),
    )


def write_predictor(status: Status, endpoints: Endpoints) -> dict[str, Any]:
    """The status of a Predictor, whole."""
    return {
        "available": status.available,
        "transitionStatus": str(status.transition),
        "activeModelState": str(status.active),
        "targetModelState": str(status.target),
        **({"lastFailureInfo": _written(status.failure, "modelId")} if status.failure else {}),
        "httpEndpoint": endpoints.rest or "",
        "grpcEndpoint": endpoints.grpc,
        "totalCopies": status.total_copies,
        "failedCopies": status.failed_copies,
    }


def inference_service_status(resource: Mapping[str, Any]) -> Status:
    """Reads the status of an InferenceService."""
    written = resource.get("status") or {}
    model = written.get("modelStatus") or {}
    states, copies = model.get("states") or {}, model.get("copies") or {}
    conditions = {condition.get("type"): condition for condition in written.get("conditions") or ()}
    return Status(
        available=conditions.get("PredictorReady", {}).get("status") == "True",
        transition=_known(Transition, model.get("transitionStatus"), Transition.UP_TO_DATE),
        active=_known(ModelState, states.get("activeModelState") or None, ModelState.PENDING),
        target=_known(ModelState, states.get("targetModelState"), ModelState.NONE),
        failure=_failure(model.get("lastFailureInfo"), "modelRevisionName"),
        total_copies=copies.get("totalCopies", 0),
        failed_copies=copies.get("failedCopies", 0),
    )


def write_inference_service(
    before: Mapping[str, Any], status: Status, endpoints: Endpoints, now_s: int
) -> dict[str, Any]:
    """The status of an InferenceService, whole.

    What is not the mesh's (a transformer's component, other conditions, the address) stays as it was, and a condition
    that did not change keeps its time.

    Args:
        before: the status member of the resource as it is now.
        status: to be written.
        endpoints: of the namespace.
        now_s: seconds since the epoch.
    """
    after = {
        name: value for name, value in before.items() if name not in {"url", "components", "modelStatus"}
    }
    components = {k: v for k, v in (before.get("components") or {}).items() if k != "predictor"}
    if status.available:
        after["url"] = endpoints.grpc
        rest = {"restUrl": endpoints.rest} if endpoints.rest else {}
        components["predictor"] = {"url": endpoints.grpc, "grpcUrl": endpoints.grpc, **rest}
    if components:
        after["components"] = components
    after["conditions"] = _conditions(before.get("conditions") or (), status.available, now_s)
    after["modelStatus"] = {
        "transitionStatus": str(status.transition),
        "states": {"activeModelState": str(status.active), "targetModelState": str(status.target)},
        "copies": {"failedCopies": status.failed_copies, "totalCopies": status.total_copies},
        **({"lastFailureInfo": _written(status.failure, "modelRevisionName")} if status.failure else {}),
    }
    return after


def _conditions(before: Sequence[Mapping[str, Any]], available: bool, now_s: int) -> list[dict[str, Any]]:
    wanted = "True" if available else "False"
    known = {condition.get("type"): condition for condition in before}
    ours = []
    for kind in _CONDITIONS:
        old = known.get(kind, {})
        same = old.get("status") == wanted and old.get("lastTransitionTime")
        since = old["lastTransitionTime"] if same else _time(now_s)
        ours.append({"type": kind, "status": wanted, "lastTransitionTime": since})
    others = [dict(condition) for condition in before if condition.get("type") not in _CONDITIONS]
    return sorted(others + ours, key=lambda condition: str(condition["type"]))


def _failure(written: Mapping[str, Any] | None, model_id: str) -> Failure | None:
    if not written:
        return None
    reason = _known(FailureReason, written.get("reason"), FailureReason.LOAD_FAILED)
    time = written.get("time")
    return Failure(
        reason=reason,
        message=written.get("message", ""),
        model_id=written.get(model_id, ""),
        location=written.get("location", ""),
        time_s=int(datetime.fromisoformat(time).timestamp()) if time else None,
    )


def _written(failure: Failure, model_id: str) -> dict[str, Any]:
    members = {
        "location": failure.location,
        "reason": str(failure.reason),
        "message": failure.message,
        model_id: failure.model_id,
        "time": "" if failure.time_s is None else _time(failure.time_s),
    }
    return {name: value for name, value in members.items() if value}


def _time(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _known(kind: type[_Known], value: str | None, default: _Known) -> _Known:
    try:
        return default if value is None else kind(value)
    except ValueError:
        return default
