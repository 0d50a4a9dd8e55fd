"""The mesh's container in the pods of a runtime."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mesh.controller.configuration import Configuration
from mesh.controller.runtimes.endpoints import Port, Socket, parse_endpoint
from mesh.controller.runtimes.runtime import Adapter, Runtime
from mesh.controller.runtimes.validation import CERTIFICATES, CONSTRAINTS, ETCD, MODELS, STORAGE_CONFIG

#: Time that a pod has to leave, seconds; as in KServe ModelMesh.
GRACE_S = 90
MODELS_PATH = "/models"
PVC_PATH = "/pvc_mounts"
STORAGE_CONFIG_PATH = "/storage-config"
PRESTOP_PORT = 8090
_PROBE_PORT = 8089
_HOME = "/opt/kserve/mmesh"
_CONSTRAINTS_PATH = "/etc/watson/mmesh/config"
#: Names that the configuration cannot override, since they follow from the runtime.
_FIXED = {
    "INTERNAL_GRPC_PORT",
    "INTERNAL_GRPC_SOCKET_PATH",
    "INTERNAL_SERVING_GRPC_PORT",
    "INTERNAL_SERVING_GRPC_SOCKET_PATH",
    "KV_STORE",
    "MESH_ADAPTER",
    "MM_DATAPLANE_CONFIG_PATH",
    "MM_DEFAULT_VMODEL_OWNER",
    "MM_KVSTORE_PREFIX",
    "MM_LABELS",
    "MM_LOG_EACH_INVOKE",
    "MM_SVC_GRPC_MAX_MSG_SIZE",
    "MM_TYPE_CONSTRAINTS_PATH",
}
#: The tag of an image: what follows the colon after the last slash.
_TAG = re.compile(r"^[^@]*/?[^/@]*:([^/@:]+)(?:@.*)?$")


def mesh_container(
    runtime: Runtime, configuration: Configuration, labels: Iterable[str], *, has_ca: bool
) -> dict[str, Any]:
    """The container, with the mounts that each runtime's has.

    Args:
        runtime: one that `check_runtime` let pass.
        configuration: of the controller.
        labels: of the instance in the mesh.
        has_ca: whether the Secret of certificates has ``ca.crt``.
    """
    metrics = configuration.metrics
    ports = [{"name": "grpc", "containerPort": configuration.service_port}]
    if metrics.enabled:
        ports.append({"name": "prometheus", "containerPort": metrics.port})
    mounts: list[dict[str, Any]] = [
        {"name": CONSTRAINTS, "mountPath": _CONSTRAINTS_PATH},
        {"name": ETCD, "mountPath": f"{_HOME}/etcd", "readOnly": True},
    ]
    if configuration.tls.secret_name:
        mounts.append({"name": CERTIFICATES, "mountPath": f"{_HOME}/tls", "readOnly": True})
    if runtime.pulls:
        mounts += [
            {"name": MODELS, "mountPath": MODELS_PATH},
            {"name": STORAGE_CONFIG, "mountPath": STORAGE_CONFIG_PATH, "readOnly": True},
        ]
    image = configuration.mesh_image
    return {
        "name": "mm",
        "image": image.reference,
        **({"command": list(image.command)} if image.command else {}),
        "ports": ports,
        "env": _environment(runtime, configuration, labels, has_ca=has_ca),
        "resources": configuration.mesh_resources.written(),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": _PROBE_PORT},
            "initialDelaySeconds": 5,
            "periodSeconds": 5,
            "timeoutSeconds": 1,
        },
        "livenessProbe": {
            "httpGet": {"path": "/live", "port": _PROBE_PORT},
            "initialDelaySeconds": 90,
            "periodSeconds": 30,
            "timeoutSeconds": 5,
            "failureThreshold": 2,
        },
        "volumeMounts": mounts,
    }


def _environment(
    runtime: Runtime, configuration: Configuration, labels: Iterable[str], *, has_ca: bool
) -> list[dict[str, Any]]:
    metrics = configuration.metrics
    kind = f"prometheus:port={metrics.port};scheme={metrics.scheme}"
    if metrics.per_model:
        kind += ";per_model_metrics=true"
    variables: dict[str, Any] = {
        "MM_SERVICE_NAME": configuration.service_name,
        "MM_SVC_GRPC_PORT": str(configuration.service_port),
        "WKUBE_POD_NAME": _field("metadata.name"),
        "WKUBE_POD_IPADDR": _field("status.podIP"),
        "MM_LOCATION": _field("status.hostIP"),
        "MM_METRICS": kind if metrics.enabled else "disabled",
        "SHUTDOWN_TIMEOUT_MS": str(GRACE_S * 1000),
    }
    variables |= _of_adapter(runtime)
    variables |= {name: value for name, value in configuration.environment if name not in _FIXED}
    if configuration.payload_processors:
        variables["MM_PAYLOAD_PROCESSORS"] = " ".join(configuration.payload_processors)
    variables |= _of_certificates(configuration, has_ca=has_ca)
    variables |= {
        "KV_STORE": f"etcd:{_HOME}/etcd/etcd_connection",
        "MM_KVSTORE_PREFIX": "mm",
        "MM_DEFAULT_VMODEL_OWNER": "ksp",
        "MM_LABELS": ",".join(sorted(labels)),
        "MM_TYPE_CONSTRAINTS_PATH": f"{_CONSTRAINTS_PATH}/type_constraints",
        "MM_DATAPLANE_CONFIG_PATH": f"{_CONSTRAINTS_PATH}/dataplane_api_config",
        **_of_endpoints(runtime),
    }
    if configuration.access_logging:
        variables["MM_LOG_EACH_INVOKE"] = "true"
    if configuration.max_message_bytes > 0:
        variables["MM_SVC_GRPC_MAX_MSG_SIZE"] = str(configuration.max_message_bytes)
    return [
        {"name": name, "valueFrom": value} if isinstance(value, Mapping) else {"name": name, "value": value}
        for name, value in variables.items()
    ]


def _of_certificates(configuration: Configuration, *, has_ca: bool) -> dict[str, str]:
    tls, where = configuration.tls, f"{_HOME}/tls"
    if not tls.secret_name:
        return {}
    variables = {
        "MM_TLS_KEY_CERT_PATH": f"{where}/tls.crt",
        "MM_TLS_PRIVATE_KEY_PATH": f"{where}/tls.key",
    }
    if tls.client_auth:
        trusted = [f"{where}/tls.crt", *([f"{where}/ca.crt"] if has_ca else [])]
        variables |= {"MM_TLS_CLIENT_AUTH": tls.client_auth, "MM_TLS_TRUST_CERT_PATH": ",".join(trusted)}
    return variables


def _of_endpoints(runtime: Runtime) -> dict[str, str]:
    """Where the model server is reached; an adapter finds its management API by variables of its own."""
    variables = {}
    for prefix, field, text in (
        ("INTERNAL_SERVING_GRPC", "grpcDataEndpoint", runtime.data_endpoint),
        ("INTERNAL_GRPC", "grpcEndpoint", "" if runtime.adapter else runtime.management_endpoint),
    ):
        if not text:
            continue
        match parse_endpoint(text, field):
            case Port(number):
                variables[f"{prefix}_PORT"] = str(number)
            case Socket(path):
                variables[f"{prefix}_SOCKET_PATH"] = path
    return variables


def _of_adapter(runtime: Runtime) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    if runtime.pulls:
        variables["USE_EMBEDDED_PULLER"] = "true"
    if (adapter := runtime.adapter) is None:
        return variables
    server = next(container for container in runtime.containers if container["name"] == adapter.server_type)
    variables |= {
        "MESH_ADAPTER": adapter.server_type,
        "CONTAINER_MEM_REQ_BYTES": {
            "resourceFieldRef": {"containerName": adapter.server_type, "resource": "requests.memory"}
        },
    }
    variables |= _settings_of(adapter)
    for annotation, name in (
        ("maxLoadingConcurrency", "LOADING_CONCURRENCY"),
        ("perModelConcurrencyLimit", "LIMIT_PER_MODEL_CONCURRENCY"),
    ):
        if annotation in runtime.annotations:
            variables[name] = runtime.annotations[annotation]
    data = runtime.data_endpoint or (f"port:{adapter.management_port}" if adapter.management_port else "")
    if data:
        variables["RUNTIME_DATA_ENDPOINT"] = data
    if found := _TAG.match(server.get("image", "")):
        variables["RUNTIME_VERSION"] = found.group(1)
    for written in adapter.environment:
        variables[written["name"]] = written.get("valueFrom", written.get("value", ""))
    return variables


def _settings_of(adapter: Adapter) -> dict[str, str]:
    settings = {
        "RUNTIME_PORT": adapter.management_port,
        "MEM_BUFFER_BYTES": adapter.buffer_bytes,
        "LOADTIME_TIMEOUT": adapter.load_timeout_ms,
    }
    return {name: str(value) for name, value in settings.items() if value}


def _field(path: str) -> dict[str, Any]:
    return {"fieldRef": {"fieldPath": path}}
