"""How failures reach a client: one place that gives each its gRPC status, reason and remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from mesh.registry import InvalidRecord, RegistryError

#: The domain of reasons in `google.rpc.ErrorInfo`.
ERROR_DOMAIN = "mesh"


class Reason(StrEnum):
    """Why a request failed, for machines."""

    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    VMODEL_NOT_FOUND = "VMODEL_NOT_FOUND"
    MODEL_EXISTS = "MODEL_EXISTS"
    #: A vmodel has another owner.
    VMODEL_EXISTS = "VMODEL_EXISTS"
    #: A vmodel has another target than the caller took for granted.
    UNEXPECTED_TARGET = "UNEXPECTED_TARGET"
    MODEL_REFERENCED = "MODEL_REFERENCED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    #: The registry has no payload processor of this name.
    PROCESSOR_NOT_FOUND = "PROCESSOR_NOT_FOUND"
    #: Every instance refused to load the model.
    NO_PLACE = "NO_PLACE"
    #: The model has as many copies as its policy allows, and they cannot serve it.
    ENOUGH_COPIES = "ENOUGH_COPIES"
    #: The model is larger than any instance.
    TOO_LARGE = "TOO_LARGE"
    #: Making room would evict models that are in use.
    CHURN = "CHURN"
    LOAD_FAILED = "LOAD_FAILED"
    #: A vmodel's target was not ready in time; it still is being made so.
    TRANSITION_TIMEOUT = "TRANSITION_TIMEOUT"
    LOAD_TIMEOUT = "LOAD_TIMEOUT"
    #: No copy answered.
    UNREACHABLE = "UNREACHABLE"
    #: The model server refused for lack of resources.
    EXHAUSTED = "EXHAUSTED"
    REGISTRY_UNAVAILABLE = "REGISTRY_UNAVAILABLE"
    RUNTIME_UNAVAILABLE = "RUNTIME_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    #: The registry is being moved: nothing is added to it or removed.
    READ_ONLY = "READ_ONLY"
    #: The caller may not see the instance's state.
    DUMP_REFUSED = "DUMP_REFUSED"
    INTERNAL = "INTERNAL"


class StartRefused(Exception):
    """An instance cannot start as things are. The message says what is in the way and what to do."""


@dataclass(slots=True)
class MeshError(Exception):
    """A failure that a client can act on.

    Attributes:
        code: gRPC status.
        reason: for machines; sent as ``google.rpc.ErrorInfo``.
        message: for people.
        model_id: the model concerned, where there is one.
        retry_after_s: when a retry may help, sent as ``google.rpc.RetryInfo``; None where it will not.
    """

    code: grpc.StatusCode
    reason: Reason
    message: str
    model_id: str = ""
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def status_number(self) -> int:
        """The status code as the number on the wire."""
        return int(self.code.value[0])

    def details(self) -> bytes:
        """The serialized ``google.rpc.Status`` for the ``grpc-status-details-bin`` trailer."""
        status = status_pb2.Status(code=self.status_number, message=self.message)
        info = error_details_pb2.ErrorInfo(reason=self.reason.value, domain=ERROR_DOMAIN)
        if self.model_id:
            info.metadata["model_id"] = self.model_id
        status.details.append(_packed(info))
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(self.retry_after_s * 1e9))
            status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        return bytes(status.SerializeToString())


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def model_not_found(model_id: str) -> MeshError:
    """The error of a model id that nobody registered."""
    return MeshError(grpc.StatusCode.NOT_FOUND, Reason.MODEL_NOT_FOUND, "model not found", model_id)


def vmodel_not_found(vmodel_id: str) -> MeshError:
    """The error of a vmodel id that nobody set."""
    return MeshError(grpc.StatusCode.NOT_FOUND, Reason.VMODEL_NOT_FOUND, "vmodel not found", vmodel_id)


def invalid(message: str) -> MeshError:
    """The error of a request that cannot be understood."""
    return MeshError(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_ARGUMENT, message)


def read_only(model_id: str = "") -> MeshError:
    """The error of what would add to the registry or remove from it while that is being moved."""
    return MeshError(
        grpc.StatusCode.UNAVAILABLE,
        Reason.READ_ONLY,
        "model-mesh is in read-only mode: its registry is being moved, and models cannot be added or removed until"
        " KV_READ_ONLY is unset",
        model_id,
    )


def registry_unavailable(message: str, model_id: str = "") -> MeshError:
    """The error of what needs the registry while it is away."""
    return MeshError(
        grpc.StatusCode.UNAVAILABLE, Reason.REGISTRY_UNAVAILABLE, message, model_id, retry_after_s=1.0
    )


@contextmanager
def changing_record(model_id: str) -> Iterator[None]:
    """Says what is wrong where a model's record could not be changed.

    Raises:
        MeshError: FAILED_PRECONDITION, the record cannot be read; UNAVAILABLE, the registry did not take the change.
    """
    try:
        yield
    except InvalidRecord as error:
        raise MeshError(
            grpc.StatusCode.FAILED_PRECONDITION,
            Reason.INVALID_ARGUMENT,
            f"the registry's record of model {model_id} cannot be read: {error}",
            model_id,
        ) from None
    except RegistryError as error:
        raise registry_unavailable(f"the registry did not take the change: {error}", model_id) from None


def status_from_number(number: int) -> grpc.StatusCode:
    """The status code with this number on the wire; UNKNOWN for a number that means nothing."""
    return _BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)


_BY_NUMBER = {int(code.value[0]): code for code in grpc.StatusCode}
