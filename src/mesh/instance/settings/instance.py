"""An instance's settings: typed fields read from environment variables.

Names and defaults are those of KServe ModelMesh, so that an instance starts wherever the Java process did. A setting
of ours alone starts with ``MESH_``.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mesh.instance.settings import methods
from mesh.instance.settings.copies import CopySettings
from mesh.instance.settings.eviction import EvictionSettings
from mesh.instance.settings.fields import (
    SettingDescription,
    SettingError,
    boolean,
    group,
    integer,
    name_set,
    port_number,
    port_number_or_none,
    read,
    setting,
    settings_of,
    text,
)
from mesh.instance.settings.lifecycle import LifecycleSettings
from mesh.instance.settings.metrics import (
    DEFAULT_METRICS,
    MetricsOptions,
    MetricsSettings,
    metrics_settings,
)
from mesh.instance.settings.payloads import PayloadSettings
from mesh.instance.settings.placement import PlacementSettings
from mesh.instance.settings.recording import RecordingSettings
from mesh.instance.settings.registrations import RegistrationSettings
from mesh.instance.settings.request_log import RequestLogSettings
from mesh.instance.settings.tracing import TracingSettings
from mesh.instance.settings.upkeep import UpkeepSettings
from mesh.instance.settings.vmodels import VModelSettings

#: Length of an instance id: the end of the pod name, ``<replica set>-<pod>``, as KServe ModelMesh has it.
INSTANCE_ID_LENGTH = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one instance. See `describe` for meanings."""

    instance_id: str = setting(
        "WKUBE_POD_NAME", text, "name of the pod; its last 12 characters are the instance id", default=""
    )
    service_name: str = setting(
        "MM_SERVICE_NAME TAS_SERVICE_NAME",
        text,
        "name of the mesh; instances of one name work together",
        default="",
    )
    address: str = setting(
        "WKUBE_POD_IPADDR", text, "IP address at which other instances reach this one", default="127.0.0.1"
    )
    host: str = setting(
        "MM_BIND_ADDRESS", text, "IP address to listen on for requests and peers", default="0.0.0.0"
    )
    kv_store: str = setting(
        "KV_STORE",
        text,
        "registry: etcd:<file.json>, etcd:<host:port>[,...][;rootPrefix=P], or memory:",
        default="",
    )
    kv_prefix: str = setting(
        "MM_KVSTORE_PREFIX", text, "prefix of registry keys; never change it in place", default="tas-runtime"
    )
    port: int = setting(
        "MM_SVC_GRPC_PORT TAS_SVC_GRPC_PORT",
        port_number,
        "port for requests and the management API",
        default=8033,
    )
    peer_port: int = setting("MM_PEER_PORT", port_number, "port for other instances", default=8080)
    probe_port: int | None = setting(
        "MM_PROBE_PORT", port_number_or_none, "port of /ready and /live; NONE turns them off", default=8089
    )
    page_port: int | None = setting(
        "MESH_PAGE_PORT",
        port_number_or_none,
        "port of the page that shows the mesh in a browser, to be read only; default NONE, which turns it off",
        default=None,
    )
    metrics: MetricsSettings = setting(
        "MM_METRICS",
        metrics_settings,
        "disabled, prometheus[:port=2112;scheme=https;fq_names=false;per_model_metrics=false] "
        "or statsd[:port=8126;fq_names=false;legacy=false]",
        default=metrics_settings(DEFAULT_METRICS),
    )
    metrics_options: MetricsOptions = group(MetricsOptions)
    max_message_bytes: int = setting(
        "MM_SVC_GRPC_MAX_MSG_SIZE", integer(1_024), "largest message, bytes", default=16 << 20
    )
    max_metadata_bytes: int = setting(
        "MM_SVC_GRPC_MAX_HEADERS_SIZE", integer(1_024), "largest request metadata, bytes", default=8 << 10
    )
    max_connection_age_s: int = setting(
        "MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS",
        integer(0),
        "age at which connections are renewed, s; 0 is never",
        default=0,
    )
    max_connection_age_grace_s: int = setting(
        "MM_SVC_GRPC_MAX_CONNECTION_AGE_GRACE_SECS",
        integer(0),
        "time for requests of an old connection, s; 0 is any",
        default=0,
    )
    runtime_port: int | None = setting(
        "INTERNAL_GRPC_PORT",
        port_number,
        "port of the model server's management API; default 8085",
        default=None,
    )
    runtime_socket: str = setting(
        "INTERNAL_GRPC_SOCKET_PATH",
        text,
        "unix socket of the model server; default /tmp/mmesh/grpc.sock",
        default="",
    )
    serving_port: int | None = setting(
        "INTERNAL_SERVING_GRPC_PORT",
        port_number,
        "port for inference, where it differs from the management port",
        default=None,
    )
    serving_socket: str = setting(
        "INTERNAL_SERVING_GRPC_SOCKET_PATH", text, "unix socket for inference, where it differs", default=""
    )
    location: str = setting(
        "MM_LOCATION",
        text,
        "host or node of the pod, over which copies are spread; default its address",
        default="",
    )
    zone: str = setting("MM_ZONE", text, "zone of the pod, over which copies are spread", default="")
    labels: tuple[str, ...] = setting(
        "MM_LABELS", name_set, "labels of the instance, separated by commas", default=()
    )
    version: str = setting(
        "SERVICE_VERSION", text, "version of this deployment, such as build-20261121-1", default=""
    )
    dataplane_config: Mapping[str, Any] | None = setting(
        "MM_DATAPLANE_CONFIG",
        methods.dataplane_config,
        "JSON: which methods may be called and where the id is",
        default=None,
    )
    dataplane_config_path: str = setting(
        "MM_DATAPLANE_CONFIG_PATH", text, "file with the same, followed while it changes", default=""
    )
    max_queued_per_copy: int = setting(
        "MM_MAX_INFLIGHT_PER_MODEL_COPY",
        integer(-(2**31)),
        "requests at a copy of a model with limited concurrency, waiting ones included; 0 is "
        "max(16, 8 x limit), negative any number",
        default=0,
    )
    multi_parallelism: int = setting(
        "MM_MULTI_PARALLELISM",
        integer(1, 1_000),
        "models of one request that are asked at the same time, where it names several",
        default=4,
    )
    eviction: EvictionSettings = group(EvictionSettings)
    upkeep: UpkeepSettings = group(UpkeepSettings)
    placement: PlacementSettings = group(PlacementSettings)
    copies: CopySettings = group(CopySettings)
    lifecycle: LifecycleSettings = group(LifecycleSettings)
    registrations: RegistrationSettings = group(RegistrationSettings)
    request_log: RequestLogSettings = group(RequestLogSettings)
    recording: RecordingSettings = group(RecordingSettings)
    vmodels: VModelSettings = group(VModelSettings)
    tracing: TracingSettings = group(TracingSettings)
    payloads: PayloadSettings = group(PayloadSettings)
    pull_models: bool = setting(
        "USE_EMBEDDED_PULLER",
        boolean,
        "fetch model data from storage before the model server loads it",
        default=False,
    )
    models_dir: str = setting("ROOT_MODEL_DIR", text, "where pulled models go", default="/models")
    storage_config_dir: str = setting(
        "STORAGE_CONFIG_DIR",
        text,
        "directory of storage credentials, one JSON file each",
        default="/storage-config",
    )
    pvc_mounts_dir: str = setting(
        "PVC_MOUNTS_DIR", text, "directory of mounted volume claims", default="/pvc_mounts"
    )
    local_models_dirs: tuple[str, ...] = setting(
        "MESH_LOCAL_MODEL_DIRS",
        name_set,
        "directories that storage type 'local' may read, separated by commas",
        default=(),
    )
    kept_model_bytes: int = setting(
        "MESH_KEPT_MODEL_BYTES",
        integer(0),
        "pulled contents that no model here has any more are kept on the disk up to so many bytes",
        default=0,
    )
    adapter: str = setting(
        "MESH_ADAPTER",
        text,
        "model server beside this instance: spi (speaks mmesh.ModelRuntime), mlserver, triton, ovms, torchserve, "
        "or none (a pure router)",
        default="spi",
    )
    run_dir: str = setting(
        "MESH_RUN_DIR",
        text,
        "directory for the instance's own socket; default the system's for temporary files",
        default="",
    )
    shards: int = setting("MESH_DATAPLANE_SHARDS", integer(1, 64), "threads that move bytes", default=1)
    dump_token: str = setting(
        "MESH_DUMP_TOKEN", text, "token with which `mesh dump` shows the instance's whole state", default=""
    )
    log_level: str = setting("MESH_LOG_LEVEL", text, "DEBUG, INFO, WARNING or ERROR", default="INFO")

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> "Settings":
        """Reads and checks every setting.

        Raises:
            SettingError: a value is not of its type or out of range, or two settings exclude each other.
        """
        values = read(Settings, environment)
        pod_name = values.get("instance_id") or os.uname().nodename
        values["instance_id"] = pod_name[-INSTANCE_ID_LENGTH:].lstrip("-")
        values["location"] = values.get("location") or values.get("address", "127.0.0.1")
        if (info := values["metrics_options"].info) is not None:
            values["metrics_options"] = replace(values["metrics_options"], info=info.resolved(environment))
        settings = Settings(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Checks what no field can check by itself.

        Raises:
            SettingError: names the variables.
        """
        if not self.service_name:
            raise SettingError("MM_SERVICE_NAME is not set: it names the mesh that this instance belongs to")
        if not self.kv_store:
            raise SettingError(
                "KV_STORE is not set: for example etcd:localhost:2379, or memory: for a mesh of one"
            )
        if not self.instance_id or "," in self.instance_id:
            raise SettingError(
                f"WKUBE_POD_NAME: instance id {self.instance_id!r} must not be empty or contain a comma"
            )
        if not self.kv_prefix or "/" in self.kv_prefix or any(c.isspace() for c in self.kv_prefix):
            raise SettingError(
                f"MM_KVSTORE_PREFIX={self.kv_prefix!r}: must not be empty or contain '/' or white space"
            )
        for one, other in (
            ("runtime_port", "runtime_socket"),
            ("serving_port", "serving_socket"),
            ("dataplane_config", "dataplane_config_path"),
        ):
            if getattr(self, one) and getattr(self, other):
                raise SettingError(f"{_name_of(one)} and {_name_of(other)} are both set: unset one of them")
        if bool(self.metrics_options.certificate) != bool(self.metrics_options.key):
            raise SettingError("MESH_METRICS_TLS_CERT and MESH_METRICS_TLS_KEY go together: set both or none")
        if self.placement.type_constraints is not None and self.placement.type_constraints_path:
            raise SettingError(
                "MM_TYPE_CONSTRAINTS and MM_TYPE_CONSTRAINTS_PATH are both set: unset one of them"
            )
        if self.adapter not in {"spi", "mlserver", "triton", "ovms", "torchserve", "none"}:
            raise SettingError(
                f"MESH_ADAPTER={self.adapter!r}: must be spi, mlserver, triton, ovms, torchserve or none"
            )

    def max_queued(self, max_concurrency: int) -> int:
        """Requests that may wait where ``max_concurrency`` are taken at once; -1 for any number."""
        if max_concurrency <= 0 or self.max_queued_per_copy < 0:
            return -1
        in_flight = self.max_queued_per_copy or max(16, 8 * max_concurrency)
        return max(0, in_flight - max_concurrency)


def describe() -> list[SettingDescription]:
    """Every setting with its default, in the order in which they are best read."""
    return [
        SettingDescription(
            name=" or ".join(spec.metadata["names"]),
            default=_default_text(spec.default),
            meaning=spec.metadata["meaning"],
        )
        for spec in settings_of(Settings)
    ]


def _default_text(value: object) -> str:
    match value:
        case None | "" | ():
            return ""
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def _name_of(field_name: str) -> str:
    return next(str(spec.metadata["names"][0]) for spec in settings_of(Settings) if spec.name == field_name)
