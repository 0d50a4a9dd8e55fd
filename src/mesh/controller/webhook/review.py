"""Whether a runtime that a user writes is taken."""

from collections.abc import Mapping, Sequence
from typing import Any

from mesh.controller.runtimes import (
    InvalidAutoscaling,
    InvalidRuntime,
    check_runtime,
    read_autoscaling,
    read_runtime,
)


def review(admission: Mapping[str, Any], server_types: Sequence[str]) -> dict[str, Any]:
    """Answers an AdmissionReview of a ServingRuntime or ClusterServingRuntime.

    Runtimes that serve one model each are KServe's own concern and pass.

    Args:
        admission: the review, with its request.
        server_types: that have an adapter, by the configuration.

    Returns:
        The review with its response.
    """
    request = admission["request"]
    problem = _problem(request.get("object") or {}, server_types)
    response: dict[str, Any] = {"uid": request["uid"], "allowed": problem is None}
    if problem is not None:
        response["status"] = {"code": 403, "reason": "Forbidden", "message": problem}
    return {"apiVersion": admission["apiVersion"], "kind": "AdmissionReview", "response": response}


def _problem(resource: Mapping[str, Any], server_types: Sequence[str]) -> str | None:
    runtime = read_runtime(resource)
    if not runtime.multi_model:
        return None
    try:
        read_autoscaling(runtime.annotations, replicas_set=runtime.replicas is not None)
        check_runtime(runtime, server_types)
    except (InvalidAutoscaling, InvalidRuntime) as problem:
        return str(problem)
    return None
