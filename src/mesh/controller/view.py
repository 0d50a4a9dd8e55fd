"""What the controller knows of the cluster, and where it writes."""

from dataclasses import dataclass, field

from mesh.controller.cluster import Cluster, Informer, Recorder
from mesh.controller.configuration import Configuration
from mesh.controller.mesh_client import MeshClient
from mesh.controller.namespaces import is_enabled
from mesh.controller.runtimes import Runtime, effective, read_runtime
from mesh.controller.settings import DEFAULT_ETCD_SECRET, ControllerSettings


@dataclass(slots=True)
class View:
    """The cluster as its informers have it, the configuration, and the clients of meshes.

    Attributes:
        cluster: where objects are written.
        recorder: tells users of their objects.
        settings: of the process.
        configuration: changes while the controller runs.
        namespaces: None where only the controller's own counts.
        inference_services: None where the kind is not there or not followed.
        cluster_runtimes: None likewise.
        monitors: None where the kind is not there.
        meshes: clients by namespace; those of namespaces that have a mesh.
    """

    cluster: Cluster
    recorder: Recorder
    settings: ControllerSettings
    configuration: Configuration
    namespaces: Informer | None
    predictors: Informer
    inference_services: Informer | None
    runtimes: Informer
    cluster_runtimes: Informer | None
    deployments: Informer
    autoscalers: Informer
    budgets: Informer
    policies: Informer
    services: Informer
    config_maps: Informer
    secrets: Informer
    claims: Informer
    pods: Informer
    monitors: Informer | None
    meshes: dict[str, MeshClient] = field(default_factory=dict)

    def informers(self) -> list[Informer]:
        """All that follow the cluster."""
        found = (getattr(self, name) for name in self.__slots__)
        return [informer for informer in found if isinstance(informer, Informer)]

    def is_enabled(self, namespace: str) -> bool:
        """Whether a namespace has a mesh."""
        own = namespace == self.settings.namespace
        if self.namespaces is None:
            return own
        found = self.namespaces.get("", namespace)
        return found is not None and is_enabled(found, of_controller=own)

    def enabled_namespaces(self) -> list[str]:
        """All namespaces that have a mesh."""
        if self.namespaces is None:
            return [self.settings.namespace]
        names = (found["metadata"]["name"] for found in self.namespaces)
        return [name for name in names if self.is_enabled(name)]

    def runtimes_of(self, namespace: str) -> dict[str, Runtime]:
        """The runtimes that count in a namespace, by name."""
        of_cluster = () if self.cluster_runtimes is None else map(read_runtime, self.cluster_runtimes)
        return effective(map(read_runtime, self.runtimes.within(namespace)), of_cluster)

    def etcd_secret(self) -> str:
        """Name of the Secret with the connection to etcd."""
        if self.settings.etcd_secret == DEFAULT_ETCD_SECRET and self.configuration.etcd_secret_name:
            return self.configuration.etcd_secret_name
        return self.settings.etcd_secret
