"""The Deployment that runs the pods of one runtime: the model server's containers with the mesh's beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mesh.controller.configuration import Configuration
from mesh.controller.quantities import mebibytes, parse_quantity
from mesh.controller.runtimes.endpoints import Socket, parse_endpoint
from mesh.controller.runtimes.labels import labels_of
from mesh.controller.runtimes.mesh_container import (
    GRACE_S,
    MODELS_PATH,
    PRESTOP_PORT,
    PVC_PATH,
    mesh_container,
)
from mesh.controller.runtimes.rest_proxy import rest_proxy
from mesh.controller.runtimes.runtime import GROUP_VERSION, Runtime
from mesh.controller.runtimes.validation import (
    CERTIFICATES,
    CONSTRAINTS,
    ETCD,
    MODELS,
    SOCKETS,
    STORAGE_CONFIG,
)

CONTROLLER = "modelmesh-controller"
#: Label of all that belongs to one mesh, with the Service's name as its value.
SERVICE_LABEL = "modelmesh-service"
#: Whether claims are mounted for reading only: "true" unless said otherwise.
READ_ONLY_ANNOTATION = "storage.kserve.io/readonly"
_ARCHITECTURES = ["amd64", "arm64", "s390x"]
#: Room for what is being fetched while what it replaces is still there, as in KServe ModelMesh.
_DISK_PER_MEMORY = Decimal("1.5")
_DROP_ALL = {"capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else of the namespace goes into the pods.

    Attributes:
        namespace: of the pods.
        etcd_secret: name of the Secret with the connection.
        claims: names of the volume claims that are mounted, sorted.
        has_ca: whether the Secret of certificates has ``ca.crt``.
    """

    namespace: str
    etcd_secret: str
    claims: tuple[str, ...] = ()
    has_ca: bool = False


def controlled_labels(service: str) -> dict[str, str]:
    """Labels of each object that the controller makes."""
    managed = dict.fromkeys(("instance", "managed-by", "name"), CONTROLLER)
    return {SERVICE_LABEL: service, **{f"app.kubernetes.io/{name}": value for name, value in managed.items()}}


def deployment_name(runtime: Runtime, configuration: Configuration) -> str:
    """Name of a runtime's Deployment, and of what belongs to it."""
    return f"{configuration.service_name}-{runtime.name}"


def owned_by(runtime: Runtime) -> dict[str, Any]:
    """The owner reference by which an object goes when its runtime does."""
    return {
        "apiVersion": GROUP_VERSION,
        "kind": runtime.kind,
        "name": runtime.name,
        "uid": runtime.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def runtime_deployment(
    runtime: Runtime, configuration: Configuration, surroundings: Surroundings
) -> dict[str, Any]:
    """The Deployment of a runtime, without the number of replicas.

    Args:
        runtime: one that `check_runtime` let pass.
        configuration: of the controller.
        surroundings: of the pods.
    """
    name = deployment_name(runtime, configuration)
    labels = controlled_labels(configuration.service_name) | {"name": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": surroundings.namespace,
            "labels": labels,
            "ownerReferences": [owned_by(runtime)],
        },
        "spec": {
            "selector": {"matchLabels": {SERVICE_LABEL: configuration.service_name, "name": name}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "75%", "maxUnavailable": "15%"},
            },
            "template": {
                "metadata": {
                    "labels": {**labels, **configuration.pod_labels, **(runtime.spec.get("labels") or {})},
                    "annotations": _annotations(runtime, configuration),
                },
                "spec": _pod(runtime, configuration, surroundings),
            },
        },
    }


def made_of(runtime: Runtime, configuration: Configuration, surroundings: Surroundings) -> dict[str, Any]:
    """All that a runtime's pods depend on, as JSON; the same in each release for what stays the same.

    A member that a later release adds is left out where it has its default.
    """
    annotations = {
        name: value
        for name, value in runtime.annotations.items()
        if name in {"maxLoadingConcurrency", "perModelConcurrencyLimit", READ_ONLY_ANNOTATION}
    }
    proxy, metrics, tls = configuration.rest_proxy, configuration.metrics, configuration.tls
    return {
        "runtime": [runtime.kind, runtime.name, dict(runtime.spec), annotations],
        "service": [configuration.service_name, configuration.service_port],
        "image": [configuration.mesh_image.reference, list(configuration.mesh_image.command)],
        "resources": configuration.mesh_resources.written(),
        "metrics": [metrics.enabled, metrics.port, metrics.scheme, metrics.per_model],
        "rest": [proxy.port, proxy.skip_verify, proxy.image.reference, proxy.resources.written()]
        if proxy.enabled
        else [],
        "tls": [tls.secret_name, tls.client_auth, surroundings.has_ca],
        "pods": [
            dict(configuration.pod_labels),
            dict(configuration.pod_annotations),
            list(configuration.image_pull_secrets),
            configuration.service_account_name,
        ],
        "mesh": [
            configuration.access_logging,
            configuration.max_message_bytes,
            list(configuration.payload_processors),
            [list(variable) for variable in configuration.environment],
        ],
        "storage": [configuration.storage_secret_name, surroundings.etcd_secret, list(surroundings.claims)],
    }


def disruption_budget(runtime: Runtime, configuration: Configuration, namespace: str) -> dict[str, Any]:
    """The PodDisruptionBudget of a runtime: one pod leaves at a time, so that others can take its models over."""
    name = deployment_name(runtime, configuration)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": controlled_labels(configuration.service_name) | {"name": name},
            "ownerReferences": [owned_by(runtime)],
        },
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {SERVICE_LABEL: configuration.service_name, "name": name}},
        },
    }


def _annotations(runtime: Runtime, configuration: Configuration) -> dict[str, str]:
    metrics = configuration.metrics
    scrape = {
        "prometheus.io/path": "/metrics",
        "prometheus.io/port": str(metrics.port),
        "prometheus.io/scheme": metrics.scheme,
        "prometheus.io/scrape": "true",
    }
    return {
        **(scrape if metrics.enabled else {}),
        **configuration.pod_annotations,
        **(runtime.spec.get("annotations") or {}),
    }


def _pod(runtime: Runtime, configuration: Configuration, surroundings: Surroundings) -> dict[str, Any]:
    claims = [
        {"name": claim, "mountPath": f"{PVC_PATH}/{claim}", "readOnly": _read_only(runtime)}
        for claim in surroundings.claims
    ]
    sockets = _socket_mounts(runtime)
    containers = [
        _server(container, runtime, [{"name": MODELS, "mountPath": MODELS_PATH}, *claims, *sockets])
        for container in runtime.containers
    ]
    if configuration.rest_proxy.enabled:
        containers.insert(0, rest_proxy(configuration))
    # Last, since it waits for the model server only for so long, and images are pulled in this order.
    mesh = mesh_container(
        runtime,
        configuration,
        labels_of(runtime, rest_proxy=configuration.rest_proxy.enabled),
        has_ca=surroundings.has_ca,
    )
    mesh["volumeMounts"] += [*(claims if runtime.pulls else []), *sockets]
    containers.append(mesh)
    spec = runtime.spec
    pod = {
        "containers": containers,
        "volumes": _volumes(runtime, configuration, surroundings),
        "affinity": _affinity(spec.get("affinity") or {}),
        "nodeSelector": spec.get("nodeSelector"),
        "tolerations": spec.get("tolerations"),
        "imagePullSecrets": _pull_secrets(configuration, spec.get("imagePullSecrets") or ()),
        "serviceAccountName": configuration.service_account_name,
    }
    return {"terminationGracePeriodSeconds": GRACE_S} | {name: value for name, value in pod.items() if value}


def _read_only(runtime: Runtime) -> bool:
    return runtime.annotations.get(READ_ONLY_ANNOTATION, "true").lower() != "false"


def _server(
    container: Mapping[str, Any], runtime: Runtime, mounts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    own = list(container.get("volumeMounts") or ())
    # A runtime may mount the models' directory where it likes.
    known = {mount["name"] for mount in own}
    prestop = {"httpGet": {"path": "/prestop", "port": PRESTOP_PORT}}
    return {
        "securityContext": _DROP_ALL,
        **container,
        "volumeMounts": [*(mount for mount in mounts if mount["name"] not in known), *own],
        "lifecycle": {"preStop": prestop},
    }


def _endpoint_socket(runtime: Runtime) -> Socket | None:
    for field, text in (
        ("grpcDataEndpoint", runtime.data_endpoint),
        ("grpcEndpoint", "" if runtime.adapter else runtime.management_endpoint),
    ):
        if text and isinstance(endpoint := parse_endpoint(text, field), Socket):
            return endpoint
    return None


def _socket_mounts(runtime: Runtime) -> list[dict[str, Any]]:
    socket = _endpoint_socket(runtime)
    return [{"name": SOCKETS, "mountPath": socket.directory}] if socket else []


def _volumes(
    runtime: Runtime, configuration: Configuration, surroundings: Surroundings
) -> list[dict[str, Any]]:
    memory = sum(
        (
            parse_quantity(str(limit))
            for container in runtime.containers
            if (limit := ((container.get("resources") or {}).get("limits") or {}).get("memory"))
        ),
        Decimal(0),
    )
    directory = {"sizeLimit": mebibytes(memory * _DISK_PER_MEMORY)} if memory else {}
    volumes: list[dict[str, Any]] = [
        *(runtime.spec.get("volumes") or ()),
        {"name": MODELS, "emptyDir": directory},
    ]
    if _endpoint_socket(runtime):
        volumes.append({"name": SOCKETS, "emptyDir": {}})
    if runtime.pulls:
        volumes.append({"name": STORAGE_CONFIG, "secret": {"secretName": configuration.storage_secret_name}})
    volumes += [
        {"name": claim, "persistentVolumeClaim": {"claimName": claim, "readOnly": _read_only(runtime)}}
        for claim in surroundings.claims
    ]
    volumes += [
        {"name": CONSTRAINTS, "configMap": {"name": CONSTRAINTS}},
        {"name": ETCD, "secret": {"secretName": surroundings.etcd_secret}},
    ]
    if configuration.tls.secret_name:
        volumes.append({"name": CERTIFICATES, "secret": {"secretName": configuration.tls.secret_name}})
    return volumes


def _affinity(written: Mapping[str, Any]) -> dict[str, Any]:
    """The runtime's affinity, and nodes of an architecture that the mesh runs on.

    The terms of a node selector are alternatives, so the architecture goes into each of them.
    """
    architectures = {"key": "kubernetes.io/arch", "operator": "In", "values": _ARCHITECTURES}
    node = dict(written.get("nodeAffinity") or {})
    member = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = (node.get(member) or {}).get("nodeSelectorTerms") or [{}]
    node[member] = {
        "nodeSelectorTerms": [
            {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), architectures]}
            for term in terms
        ]
    }
    return {**written, "nodeAffinity": node}


def _pull_secrets(configuration: Configuration, own: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = dict.fromkeys([*configuration.image_pull_secrets, *(secret["name"] for secret in own)])
    return [{"name": name} for name in names]
