"""What the answers to ``runtimeStatus`` mean: pure rules, those of KServe ModelMesh where it has one."""

from dataclasses import dataclass
from enum import Enum

import grpc

from mesh.protos.model_runtime_pb2 import RuntimeStatusResponse
from mesh.runtimes.interface import LoadedModel, RuntimeFailure, RuntimeParameters

UNIT_BYTES = 8 << 10
"""Sizes are accounted in units of so many bytes."""

MAX_BYTES = (1 << 63) - 1
"""More is taken for a negative number that lost its sign, as memory less a buffer may become."""

_MAX_INT32 = (1 << 31) - 1
_MAX_FIELD_NUMBER = (1 << 29) - 1
_CAPACITY_FLOOR_BYTES = 512 << 20


class Next(Enum):
    """What to do after one poll."""

    ACCEPT = "accept"
    WAIT = "wait"
    TRY_LEGACY = "try_legacy"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and its reason, for people."""

    next: Next
    reason: str


def judge_answer(answer: RuntimeStatusResponse) -> Verdict:
    """Judges an answer that came."""
    match answer.status:
        case RuntimeStatusResponse.READY:
            return Verdict(Next.ACCEPT, "ready")
        case RuntimeStatusResponse.STARTING:
            return Verdict(Next.WAIT, "says STARTING")
        case RuntimeStatusResponse.FAILING:
            return Verdict(Next.FAIL, "says FAILING: see its own log")
        case unknown:
            return Verdict(
                Next.FAIL, f"answered status {unknown}, which is none of STARTING=0, READY=1, FAILING=2"
            )


def judge_error(code: grpc.StatusCode, message: str, *, legacy: bool) -> Verdict:
    """Judges a poll that failed; ``legacy`` tells that the old service name was asked for."""
    if code is not grpc.StatusCode.UNIMPLEMENTED:
        return Verdict(Next.WAIT, f"{code.name}: {message}")
    if legacy:
        return Verdict(Next.FAIL, "serves neither mmesh.ModelRuntime nor its predecessor")
    return Verdict(Next.TRY_LEGACY, "does not serve mmesh.ModelRuntime")


def minimum_capacity_bytes(default_model_size_bytes: int) -> int:
    """Returns: the least capacity that a runtime with this default size may have."""
    return max(2 * default_model_size_bytes, min(_CAPACITY_FLOOR_BYTES, 10 * default_model_size_bytes))


def read_parameters(answer: RuntimeStatusResponse) -> RuntimeParameters:
    """Checks what a runtime that is ready tells of itself.

    Raises:
        RuntimeFailure: FAILED_PRECONDITION, naming the field, its value and the remedy.
    """
    default = answer.defaultModelSizeInBytes
    _in_range(
        "maxLoadingConcurrency",
        answer.maxLoadingConcurrency,
        1,
        _MAX_INT32,
        "how many loads it takes at once",
    )
    _in_range(
        "modelLoadingTimeoutMs",
        answer.modelLoadingTimeoutMs,
        100,
        _MAX_INT32,
        "the longest load in milliseconds",
    )
    _in_range("defaultModelSizeInBytes", default, UNIT_BYTES, MAX_BYTES, "the size of a usual model in bytes")
    least = minimum_capacity_bytes(default)
    _in_range(
        "capacityInBytes",
        answer.capacityInBytes,
        least,
        MAX_BYTES,
        f"its memory for models in bytes; with defaultModelSizeInBytes={default} at least {least},"
        " so give the runtime more memory or tell a smaller default size",
    )
    return RuntimeParameters(
        capacity_bytes=answer.capacityInBytes,
        max_loading_concurrency=answer.maxLoadingConcurrency,
        loading_timeout_ms=answer.modelLoadingTimeoutMs,
        default_model_size_bytes=default,
        version=answer.runtimeVersion,
        methods={_method(name): _path(name, info) for name, info in answer.methodInfos.items()},
        allow_any_method=answer.allowAnyMethod,
        limit_model_concurrency=answer.limitModelConcurrency,
    )


def read_load(size_bytes: int, max_concurrency: int, *, limited: bool) -> tuple[LoadedModel, list[str]]:
    """Reads the answer to a load; ``limited`` is `RuntimeParameters.limit_model_concurrency`.

    Returns: the result, and a warning for each value that could not be taken as it was.
    """
    warnings = []
    if size_bytes > MAX_BYTES:
        warnings.append(f"sizeInBytes={size_bytes} is impossible and was ignored")
        size_bytes = 0
    if limited and not 1 <= max_concurrency <= _MAX_INT32:
        warnings.append(
            f"maxConcurrency={max_concurrency} was taken as 1: runtimeStatus has limitModelConcurrency=true,"
            " so each load must tell a maxConcurrency of at least 1"
        )
        max_concurrency = 1
    if not limited and max_concurrency:
        warnings.append(
            f"maxConcurrency={max_concurrency} was ignored: runtimeStatus has limitModelConcurrency=false"
        )
        max_concurrency = 0
    return LoadedModel(size_bytes, max_concurrency), warnings


def _in_range(field: str, value: int, least: int, most: int, meaning: str) -> None:
    if least <= value <= most:
        return
    problem = f"is below the minimum of {least}" if value < least else "looks like a negative number"
    raise RuntimeFailure(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"runtimeStatus answered {field}={value}, which {problem}; the runtime must tell {meaning}",
    )


def _method(name: str) -> str:
    return name.removeprefix("/")


def _path(name: str, info: RuntimeStatusResponse.MethodInfo) -> tuple[int, ...]:
    for number in info.idInjectionPath:
        if not 1 <= number <= _MAX_FIELD_NUMBER:
            raise RuntimeFailure(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"runtimeStatus answered methodInfos[{name!r}].idInjectionPath={list(info.idInjectionPath)};"
                f" {number} is no protobuf field number: they go from 1 to {_MAX_FIELD_NUMBER}",
            )
    return tuple(info.idInjectionPath)
