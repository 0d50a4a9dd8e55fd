"""What a configuration says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Image:
    """A container image and, where it is not the image's own, the command to run.

    Attributes:
        digest: goes before the tag.
    """

    name: str
    tag: str = ""
    digest: str = ""
    command: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """The image as a pod names it."""
        if self.digest:
            return f"{self.name}@{self.digest}"
        return f"{self.name}:{self.tag}" if self.tag else self.name


@dataclass(frozen=True, slots=True)
class Resources:
    """What a container requests and is limited to, as quantities of Kubernetes by resource name."""

    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)

    def written(self) -> dict[str, Any]:
        """The ``resources`` member of a container."""
        members = {"requests": dict(self.requests), "limits": dict(self.limits)}
        return {name: value for name, value in members.items() if value}


@dataclass(frozen=True, slots=True)
class RestProxy:
    """The REST proxy of each pod.

    Attributes:
        skip_verify: whether the proxy takes any certificate of the mesh beside it.
    """

    enabled: bool
    port: int
    skip_verify: bool
    image: Image
    resources: Resources


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics endpoint of each pod.

    Attributes:
        scheme: ``http`` or ``https``.
        per_model: whether series carry the model's id.
        monitor: whether a ServiceMonitor is made where its kind exists.
    """

    enabled: bool
    port: int
    scheme: str
    per_model: bool
    monitor: bool


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of the mesh.

    Attributes:
        secret_name: "" for none.
        client_auth: "", ``optional`` or ``require``.
    """

    secret_name: str = ""
    client_auth: str = ""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the ConfigMap of a user says, with the defaults where it is silent.

    Attributes:
        service_name: of the Service, and prefix of Deployments' names.
        service_port: for gRPC.
        pods_per_runtime: where a runtime does not say.
        mesh_resources: of the mesh's container.
        max_message_bytes: 0 or less for the mesh's own default.
        scale_to_zero_after_s: None where runtimes without models keep their pods.
        environment: further variables of the mesh's container, name and value.
        mesh_endpoint: where the mesh is managed, instead of its Service; "" for that.
        warnings: what in the ConfigMap has no effect.
    """

    service_name: str
    service_port: int
    headless: bool
    pods_per_runtime: int
    storage_secret_name: str
    service_account_name: str
    access_logging: bool
    max_message_bytes: int
    metrics: Metrics
    scale_to_zero_after_s: int | None
    rest_proxy: RestProxy
    mesh_image: Image
    mesh_resources: Resources
    built_in_server_types: tuple[str, ...]
    payload_processors: tuple[str, ...]
    pod_labels: Mapping[str, str]
    pod_annotations: Mapping[str, str]
    image_pull_secrets: tuple[str, ...]
    allow_any_pvc: bool
    tls: Tls
    environment: tuple[tuple[str, str], ...]
    mesh_endpoint: str
    etcd_secret_name: str
    warnings: tuple[str, ...] = field(default=(), compare=False)
