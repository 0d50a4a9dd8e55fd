"""Runtimes: from ServingRuntimes and ClusterServingRuntimes to the Deployments that run them; values in, values out."""

from mesh.controller.runtimes.autoscaling import Autoscaling, InvalidAutoscaling, autoscaler, read_autoscaling
from mesh.controller.runtimes.claims import claims_of_storage, mounted_claims
from mesh.controller.runtimes.deployment import (
    CONTROLLER,
    SERVICE_LABEL,
    Surroundings,
    controlled_labels,
    deployment_name,
    disruption_budget,
    made_of,
    owned_by,
    runtime_deployment,
)
from mesh.controller.runtimes.labels import labels_of, serves_type, type_constraints
from mesh.controller.runtimes.runtime import Adapter, Format, Runtime, effective, read_runtime
from mesh.controller.runtimes.scaling import Live, Scale, plan_scale
from mesh.controller.runtimes.validation import InvalidRuntime, check_runtime

__all__ = [
    "CONTROLLER",
    "SERVICE_LABEL",
    "Adapter",
    "Autoscaling",
    "Format",
    "InvalidAutoscaling",
    "InvalidRuntime",
    "Live",
    "Runtime",
    "Scale",
    "Surroundings",
    "autoscaler",
    "check_runtime",
    "claims_of_storage",
    "controlled_labels",
    "deployment_name",
    "disruption_budget",
    "effective",
    "labels_of",
    "made_of",
    "mounted_claims",
    "owned_by",
    "plan_scale",
    "read_autoscaling",
    "read_runtime",
    "runtime_deployment",
    "serves_type",
    "type_constraints",
]
