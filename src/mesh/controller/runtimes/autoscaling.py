"""Annotations by which a runtime is scaled, and the HorizontalPodAutoscaler that they ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.controller.configuration import Configuration
from mesh.controller.runtimes.deployment import controlled_labels, deployment_name, owned_by
from mesh.controller.runtimes.runtime import Runtime

PREFIX = "serving.kserve.io/"
CLASS = f"{PREFIX}autoscalerClass"
METRIC = f"{PREFIX}metrics"
TARGET = f"{PREFIX}targetUtilizationPercentage"
LEAST = f"{PREFIX}min-scale"
MOST = f"{PREFIX}max-scale"


class InvalidAutoscaling(ValueError):
    """Annotations ask for what cannot be. The messages are those of KServe ModelMesh, where it has one."""


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """What an autoscaler is to do.

    Attributes:
        metric: ``cpu`` or ``memory``.
        target_percent: of what the containers request.
        least: pods.
        most: pods.
    """

    metric: str
    target_percent: int
    least: int
    most: int


def read_autoscaling(annotations: Mapping[str, str], *, replicas_set: bool) -> Autoscaling | None:
    """The autoscaling that a runtime's annotations ask for; None where its replicas are the controller's.

    Args:
        annotations: of the runtime.
        replicas_set: whether its spec says how many replicas there are.

    Raises:
        InvalidAutoscaling: they cannot be read, or contradict each other.
    """
    kind = annotations.get(CLASS, "none")
    if kind not in {"hpa", "none"}:
        raise InvalidAutoscaling(
            f"[{kind}] is not a supported autoscaler class type. {CLASS} must be hpa or none"
        )
    target = _whole(annotations, TARGET, 80, "The target utilization percentage should be a [1-100] integer.")
    if not 1 <= target <= 100:
        raise InvalidAutoscaling("The target utilization percentage should be a [1-100] integer.")
    if kind == "none":
        return None
    metric = annotations.get(METRIC, "cpu")
    if metric not in {"cpu", "memory"}:
        raise InvalidAutoscaling(f"[{metric}] is not a supported metric. {METRIC} must be cpu or memory")
    if replicas_set:
        raise InvalidAutoscaling(
            "Autoscaler is enabled and also replicas variable set. You can not set both."
        )
    least = _whole(annotations, LEAST, 1, "The min replicas should be a integer.")
    if least < 1:
        raise InvalidAutoscaling("The min replicas should be more than 0")
    most = _whole(annotations, MOST, 1, "The max replicas should be a integer.")
    if least > most:
        raise InvalidAutoscaling(
            f"The max replicas should be same or bigger than min replicas. {MOST} is {most}, {LEAST} {least}"
        )
    return Autoscaling(metric, target, least, most)


def autoscaler(
    runtime: Runtime, wanted: Autoscaling, configuration: Configuration, namespace: str
) -> dict[str, Any]:
    """The HorizontalPodAutoscaler of a runtime's Deployment."""
    name = deployment_name(runtime, configuration)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                **runtime.labels,
                **controlled_labels(configuration.service_name),
                f"{PREFIX}inferenceservice": runtime.name,
                "component": "predictor",
            },
            "annotations": {
                name: value for name, value in runtime.annotations.items() if name.startswith(PREFIX)
            },
            "ownerReferences": [owned_by(runtime)],
        },
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": wanted.least,
            "maxReplicas": wanted.most,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": wanted.metric,
                        "target": {"type": "Utilization", "averageUtilization": wanted.target_percent},
                    },
                }
            ],
        },
    }


def _whole(annotations: Mapping[str, str], name: str, default: int, problem: str) -> int:
    try:
        return int(annotations.get(name, default))
    except ValueError:
        raise InvalidAutoscaling(f"{problem} {name} is {annotations[name]!r}") from None
