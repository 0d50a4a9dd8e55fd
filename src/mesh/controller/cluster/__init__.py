"""The Kubernetes API: objects as they are on the wire, followed, compared and written."""

from mesh.controller.cluster.api import Cluster, ClusterError, Object
from mesh.controller.cluster.changes import covers, fingerprint
from mesh.controller.cluster.events import Recorder
from mesh.controller.cluster.informer import Informer, Key, key_of
from mesh.controller.cluster.kinds import (
    AUTOSCALERS,
    CLUSTER_SERVING_RUNTIMES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    INFERENCE_SERVICES,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    PREDICTORS,
    SECRETS,
    SERVICE_MONITORS,
    SERVICES,
    SERVING_RUNTIMES,
    VOLUME_CLAIMS,
    WEBHOOKS,
    Kind,
)
from mesh.controller.cluster.leadership import Terms, lead
from mesh.controller.cluster.queue import Again, WorkQueue

__all__ = [
    "AUTOSCALERS",
    "CLUSTER_SERVING_RUNTIMES",
    "CONFIG_MAPS",
    "DEPLOYMENTS",
    "DISRUPTION_BUDGETS",
    "INFERENCE_SERVICES",
    "NAMESPACES",
    "NETWORK_POLICIES",
    "PODS",
    "PREDICTORS",
    "SECRETS",
    "SERVICES",
    "SERVICE_MONITORS",
    "SERVING_RUNTIMES",
    "VOLUME_CLAIMS",
    "WEBHOOKS",
    "Again",
    "Cluster",
    "ClusterError",
    "Informer",
    "Key",
    "Kind",
    "Object",
    "Recorder",
    "Terms",
    "WorkQueue",
    "covers",
    "fingerprint",
    "key_of",
    "lead",
]
