"""The Service of a namespace's mesh, and what follows from it."""

from collections.abc import Mapping
from typing import Any

from mesh.controller.configuration import Configuration
from mesh.controller.predictors import Endpoints
from mesh.controller.runtimes import SERVICE_LABEL, controlled_labels

MONITOR = "modelmesh-metrics-monitor"
RUNTIMES_POLICY = "modelmesh-runtimes"
#: Between pods of one mesh; never seen by users.
_PEER_PORT = 8080


def endpoints_of(configuration: Configuration, namespace: str) -> Endpoints:
    """Where users reach the models of a namespace."""
    host = f"{configuration.service_name}.{namespace}"
    rest = configuration.rest_proxy
    scheme = "https" if configuration.tls.secret_name else "http"
    return Endpoints(
        grpc=f"grpc://{host}:{configuration.service_port}",
        rest=f"{scheme}://{host}:{rest.port}" if rest.enabled else None,
    )


def mesh_service(configuration: Configuration, namespace: str, owner: Mapping[str, Any]) -> dict[str, Any]:
    """The Service by which all pods of a namespace's mesh are one.

    Args:
        configuration: of the controller.
        namespace: of the pods.
        owner: reference to what the Service goes with.
    """
    ports = [_port("grpc", configuration.service_port)]
    if configuration.rest_proxy.enabled:
        ports.append(_port("http", configuration.rest_proxy.port))
    if configuration.metrics.enabled:
        ports.append(_port("prometheus", configuration.metrics.port))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": configuration.service_name,
            "namespace": namespace,
            "labels": controlled_labels(configuration.service_name),
            "ownerReferences": [dict(owner)],
        },
        "spec": {
            "selector": {SERVICE_LABEL: configuration.service_name},
            "ports": ports,
            **({"clusterIP": "None"} if configuration.headless else {}),
        },
    }


def must_be_made_anew(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a Service has to be deleted first, since Kubernetes does not let its headlessness change."""
    return _is_headless(live) != _is_headless(wanted)


def service_monitor(configuration: Configuration, namespace: str, service_uid: str) -> dict[str, Any] | None:
    """The ServiceMonitor of Prometheus' operator; None where there is to be none."""
    metrics = configuration.metrics
    if not metrics.enabled or not metrics.monitor:
        return None
    endpoint: dict[str, Any] = {"port": "prometheus", "interval": "30s", "scheme": metrics.scheme}
    if metrics.scheme == "https":
        endpoint["tlsConfig"] = {"insecureSkipVerify": True}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {
            "name": MONITOR,
            "namespace": namespace,
            "labels": controlled_labels(configuration.service_name),
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": configuration.service_name,
                    "uid": service_uid,
                }
            ],
        },
        "spec": {
            "selector": {"matchLabels": {SERVICE_LABEL: configuration.service_name}},
            "namespaceSelector": {"matchNames": [namespace]},
            "endpoints": [endpoint],
        },
    }


def network_policy(configuration: Configuration, namespace: str, owner: Mapping[str, Any]) -> dict[str, Any]:
    """Who may reach the pods: each other and the controller by all ports of the mesh, anyone by those for users."""
    labels = controlled_labels(configuration.service_name)
    managed = {"app.kubernetes.io/managed-by": labels["app.kubernetes.io/managed-by"]}
    public = [configuration.service_port]
    if configuration.rest_proxy.enabled:
        public.append(configuration.rest_proxy.port)
    if configuration.metrics.enabled:
        public.append(configuration.metrics.port)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": RUNTIMES_POLICY,
            "namespace": namespace,
            "labels": labels,
            "ownerReferences": [dict(owner)],
        },
        "spec": {
            "podSelector": {
                "matchLabels": managed,
                "matchExpressions": [{"key": SERVICE_LABEL, "operator": "Exists"}],
            },
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{"podSelector": {"matchLabels": managed}}],
                    "ports": [_tcp(configuration.service_port), _tcp(_PEER_PORT)],
                },
                {"ports": [_tcp(port) for port in public]},
            ],
        },
    }


def _is_headless(service: Mapping[str, Any]) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP"}


def _tcp(port: int) -> dict[str, Any]:
    return {"port": port, "protocol": "TCP"}
