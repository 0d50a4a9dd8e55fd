"""How loads end, and what that means for the request that waits."""

from dataclasses import dataclass

import grpc

from mesh.instance.errors import (
    MeshError,
    Reason,
    model_not_found,
    registry_unavailable,
    status_from_number,
)
from mesh.placement import Failure, Refusal
from mesh.protos import peer_pb2
from mesh.registry import ModelRecord

#: When a refusal for lack of room may be worth a retry, seconds.
RETRY_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """How a load ended.

    Attributes:
        loaded: there is a copy.
        reason: one of `mesh.placement`'s refusals and failures where there is none.
        code: gRPC status that fits; OK where loaded.
        message: for people.
        retry_elsewhere: another instance may well manage.
        failed: the model was at fault rather than the place: the failure is recorded.
    """

    loaded: bool
    reason: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    retry_elsewhere: bool = False
    failed: bool = False


RUNTIME_DOWN = LoadOutcome(
    loaded=False,
    reason="runtime_down",
    code=grpc.StatusCode.UNAVAILABLE,
    message="the model server of this instance is down",
    retry_elsewhere=True,
)

NO_RUNTIME = LoadOutcome(
    loaded=False,
    reason="router",
    code=grpc.StatusCode.FAILED_PRECONDITION,
    message="this instance has no model server",
    retry_elsewhere=True,
)


def not_eligible(message: str) -> LoadOutcome:
    """The labels of this instance do not allow it to have the model."""
    return LoadOutcome(
        loaded=False,
        reason=Refusal.NOT_ELIGIBLE,
        code=grpc.StatusCode.UNAVAILABLE,
        message=message,
        retry_elsewhere=True,
    )


def outcome_from(reply: peer_pb2.LoadReply) -> LoadOutcome:
    """A peer's answer as if the load had been here."""
    return LoadOutcome(
        loaded=reply.state in {peer_pb2.COPY_STATE_LOADED, peer_pb2.COPY_STATE_SIZING},
        reason=reply.reason,
        code=status_from_number(reply.code),
        message=reply.message,
        retry_elsewhere=reply.retry_elsewhere,
        failed=reply.state == peer_pb2.COPY_STATE_FAILED,
    )


def error_of(model_id: str, outcome: LoadOutcome) -> MeshError:
    """The status of a request whose model could not be loaded."""
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    match outcome.reason:
        case Failure.LARGER_THAN_CAPACITY:
            return MeshError(exhausted, Reason.TOO_LARGE, outcome.message, model_id)
        case Failure.TIMEOUT:
            return MeshError(
                grpc.StatusCode.DEADLINE_EXCEEDED, Reason.LOAD_TIMEOUT, outcome.message, model_id
            )
        case Failure.RUNTIME:
            # INTERNAL, as KServe ModelMesh has it.
            return MeshError(grpc.StatusCode.INTERNAL, Reason.LOAD_FAILED, outcome.message, model_id)
        case Refusal.CHURN:
            return MeshError(exhausted, Reason.CHURN, outcome.message, model_id, RETRY_AFTER_S)
        case Refusal.NOT_REGISTERED:
            return registry_unavailable(outcome.message, model_id)
        case Refusal.ENOUGH_COPIES:
            return MeshError(
                grpc.StatusCode.UNAVAILABLE,
                Reason.ENOUGH_COPIES,
                f"model {model_id} gets no further copy: {outcome.message}; raise max_copies to have more",
                model_id,
                RETRY_AFTER_S,
            )
        case Refusal.SHUTTING_DOWN:
            return MeshError(
                grpc.StatusCode.UNAVAILABLE, Reason.SHUTTING_DOWN, outcome.message, model_id, RETRY_AFTER_S
            )
        case Refusal.REMOVED if not outcome.retry_elsewhere:
            return model_not_found(model_id)
        case Refusal.REMOVED | Refusal.NOT_ELIGIBLE:
            return MeshError(
                grpc.StatusCode.UNAVAILABLE, Reason.NO_PLACE, outcome.message, model_id, RETRY_AFTER_S
            )
        case RUNTIME_DOWN.reason:
            return MeshError(
                grpc.StatusCode.UNAVAILABLE,
                Reason.RUNTIME_UNAVAILABLE,
                outcome.message,
                model_id,
                RETRY_AFTER_S,
            )
        case _:
            return MeshError(exhausted, Reason.NO_PLACE, outcome.message, model_id, RETRY_AFTER_S)


def error_of_record(model_id: str, record: ModelRecord) -> MeshError:
    """The status of a request whose model failed to load before: that of the newest failure in its record."""
    newest = max(record.failures, key=lambda instance_id: record.failures[instance_id])
    outcome = LoadOutcome(
        loaded=False,
        reason=record.failure_reason(newest) or Failure.RUNTIME,
        message=record.failure_message(newest) or "the load failed",
        failed=True,
    )
    return error_of(model_id, outcome)
