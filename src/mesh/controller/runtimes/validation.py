"""Whether the mesh can run a runtime as it is written."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mesh.controller.runtimes.endpoints import InvalidEndpoint, Socket, parse_endpoint
from mesh.controller.runtimes.runtime import Runtime

#: Volumes of each pod that are the controller's.
SOCKETS, MODELS, STORAGE_CONFIG, CONSTRAINTS, ETCD, CERTIFICATES = (
    "domain-socket",
    "models-dir",
    "storage-config",
    "tc-config",
    "etcd-config",
    "tls-certs",
)
_CONTAINERS = {"mm", "rest-proxy", "puller"}
_MOUNTS = {STORAGE_CONFIG, ETCD, CONSTRAINTS, SOCKETS}
_PORT_NAMES = {"grpc", "http", "prometheus"}
#: Peers, adapter, probes and prestop of the mesh, and what KServe ModelMesh keeps besides.
_PORTS = {8080, 8085, 8089, 8090, *range(11_881, 11_900)}
_PREFIX = "mm-"


class InvalidRuntime(ValueError):
    """A runtime cannot be run as it is written. The message names what is wrong."""


def check_runtime(runtime: Runtime, server_types: Sequence[str]) -> None:
    """Checks a runtime that serves several models; another one is none of the mesh's concern.

    Args:
        runtime: as written.
        server_types: that have an adapter, by the configuration.

    Raises:
        InvalidRuntime: it cannot be run.
    """
    problem = next(_problems(runtime, server_types), None)
    if problem is not None:
        raise InvalidRuntime(f"Invalid runtime Spec: {problem}")


def _problems(runtime: Runtime, server_types: Sequence[str]) -> Iterator[str]:
    names = Counter(container["name"] for container in runtime.containers)
    if adapter := runtime.adapter:
        kind = adapter.server_type
        if kind not in server_types:
            yield f"unrecognized built-in runtime server type {kind}: there are {', '.join(server_types)}"
        if kind not in names:
            yield f"must include runtime container with name {kind}"
    if not names:
        yield "containers is empty: name at least the model server's"
    for name, times in names.items():
        if times > 1:
            yield f"there are {times} containers with name {name}"
    for container in runtime.containers:
        yield from _of_container(container)
    for volume in runtime.spec.get("volumes") or ():
        if _reserved(volume["name"], _MOUNTS | {MODELS, CERTIFICATES}):
            yield f"volume name {volume['name']} is reserved"
    yield from _of_endpoints(runtime)


def _of_container(container: Mapping[str, Any]) -> Iterator[str]:
    name = container["name"]
    if _reserved(name, _CONTAINERS):
        yield f"container name {name} is reserved"
    for member in ("readinessProbe", "lifecycle"):
        if container.get(member):
            yield f"container {name} must not have {member}: the mesh decides when the pod is ready and when it ends"
    for mount in container.get("volumeMounts") or ():
        if _reserved(mount["name"], _MOUNTS):
            yield f"container {name} must not mount volume {mount['name']}: it is reserved"
    for port in container.get("ports") or ():
        if _reserved(port.get("name", ""), _PORT_NAMES):
            yield f"container {name} has a port with name {port['name']}, which is reserved"
        if port["containerPort"] in _PORTS:
            yield f"container {name} has port {port['containerPort']}, which is reserved"


def _of_endpoints(runtime: Runtime) -> Iterator[str]:
    if runtime.adapter is None and not runtime.management_endpoint:
        yield (
            "grpcEndpoint is missing: say where the runtime serves mmesh.ModelRuntime, for example port:8085, "
            "or name a builtInAdapter"
        )
    endpoints = []
    for field, text in (
        ("grpcEndpoint", runtime.management_endpoint),
        ("grpcDataEndpoint", runtime.data_endpoint),
    ):
        try:
            endpoints.append(parse_endpoint(text, field) if text else None)
        except InvalidEndpoint as problem:
            yield str(problem)
    directories = {endpoint.directory for endpoint in endpoints if isinstance(endpoint, Socket)}
    if len(directories) > 1:
        yield (
            "Only one unix domain socket path is allowed: grpcEndpoint and grpcDataEndpoint are in "
            + " and ".join(sorted(directories))
        )


def _reserved(name: str, names: set[str]) -> bool:
    return name in names or name.startswith(_PREFIX)
