"""A ServingRuntime or ClusterServingRuntime, read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

GROUP_VERSION = "serving.kserve.io/v1alpha1"


@dataclass(frozen=True, slots=True)
class Format:
    """A format of models that a runtime serves.

    Attributes:
        version: "" for any.
        auto_select: whether models that name no runtime may come here.
        priority: among the runtimes that may serve a model; higher goes first.
    """

    name: str
    version: str = ""
    auto_select: bool = False
    priority: int = 1


@dataclass(frozen=True, slots=True)
class Adapter:
    """How the mesh drives a model server that does not speak its protocol.

    Attributes:
        server_type: for example ``triton``; also the name of the server's container.
        management_port: of the server's management API; 0 for the adapter's default.
        buffer_bytes: of the server's memory, that models do not get; 0 for the adapter's default.
        load_timeout_ms: 0 for the adapter's default.
        environment: further variables, as in a container.
    """

    server_type: str
    management_port: int = 0
    buffer_bytes: int = 0
    load_timeout_ms: int = 0
    environment: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Runtime:
    """One kind of model server, as its resource describes it.

    Attributes:
        kind: of the resource; the cluster's are shadowed by a namespace's of the same name.
        uid: of the resource, for owner references.
        annotations: of the resource.
        labels: of the resource.
        spec: as written; what concerns only the pod is read from it where the pod is made.
        replicas: None for the configured number.
        uses_storage_helper: whether the mesh brings models' files.
    """

    kind: Literal["ServingRuntime", "ClusterServingRuntime"]
    name: str
    uid: str
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    formats: tuple[Format, ...]
    protocols: tuple[str, ...]
    multi_model: bool
    disabled: bool
    management_endpoint: str
    data_endpoint: str
    replicas: int | None
    uses_storage_helper: bool
    adapter: Adapter | None

    @property
    def containers(self) -> tuple[Mapping[str, Any], ...]:
        """Containers of the model server, as written."""
        return tuple(self.spec.get("containers") or ())

    @property
    def pulls(self) -> bool:
        """Whether the mesh brings models' files to this runtime."""
        return self.adapter is not None or self.uses_storage_helper

    @property
    def serves(self) -> bool:
        """Whether the mesh is to run it at all."""
        return self.multi_model and not self.disabled


def read_runtime(resource: Mapping[str, Any]) -> Runtime:
    """Reads a ServingRuntime or ClusterServingRuntime, whose schema the API server has checked."""
    metadata, spec = resource["metadata"], resource.get("spec") or {}
    cluster = resource.get("kind") == "ClusterServingRuntime"
    return Runtime(
        kind="ClusterServingRuntime" if cluster else "ServingRuntime",
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        annotations=metadata.get("annotations") or {},
        labels=metadata.get("labels") or {},
        spec=spec,
        formats=tuple(_format(item) for item in spec.get("supportedModelFormats") or ()),
        protocols=tuple(spec.get("protocolVersions") or ()),
        multi_model=spec.get("multiModel") or False,
        disabled=spec.get("disabled") or False,
        management_endpoint=spec.get("grpcEndpoint") or "",
        data_endpoint=spec.get("grpcDataEndpoint") or "",
        replicas=spec.get("replicas"),
        uses_storage_helper=not (spec.get("storageHelper") or {}).get("disabled", False),
        adapter=_adapter(spec.get("builtInAdapter")),
    )


def effective(of_namespace: Iterable[Runtime], of_cluster: Iterable[Runtime]) -> dict[str, Runtime]:
    """The runtimes that count in a namespace, by name.

    A ServingRuntime stands for a ClusterServingRuntime of its name, also where it is disabled: so a namespace opts out.
    """
    return {runtime.name: runtime for runtime in of_cluster} | {
        runtime.name: runtime for runtime in of_namespace
    }


def _format(item: Mapping[str, Any]) -> Format:
    return Format(
        name=item["name"],
        version=item.get("version") or "",
        auto_select=item.get("autoSelect") or False,
        priority=item.get("priority") or 1,
    )


def _adapter(written: Mapping[str, Any] | None) -> Adapter | None:
    if not written:
        return None
    return Adapter(
        server_type=written.get("serverType") or "",
        management_port=written.get("runtimeManagementPort") or 0,
        buffer_bytes=written.get("memBufferBytes") or 0,
        load_timeout_ms=written.get("modelLoadingTimeoutMillis") or 0,
        environment=tuple(written.get("env") or ()),
    )
