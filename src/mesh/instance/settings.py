"""An instance's settings: typed fields read from environment variables.

Names and defaults are those of KServe ModelMesh, so that an instance starts wherever the Java process did. Each
field tells its variable, unit and meaning in its metadata; `describe` lists them for ``mesh serve --help``.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: Length of an instance id: the end of the pod name, ``<replica set>-<pod>``, as KServe ModelMesh has it.
INSTANCE_ID_LENGTH = 12


class SettingError(ValueError):
    """A setting's value cannot be used. The message names the variable, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """One line of ``mesh serve --help``."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """What ``MM_METRICS`` says.

    Attributes:
        port: of the Prometheus endpoint; None turns metrics off.
        full_method_names: label methods ``package.Service/Method`` instead of ``Method``.
        per_model: add ``modelId`` and ``vModelId`` labels.
    """

    port: int | None = None
    full_method_names: bool = False
    per_model: bool = False


def _text(value: str) -> str:
    return value


def _integer(least: int, most: int | None = None) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value)
        if number < least or (most is not None and number > most):
            bounds = f"at least {least}" if most is None else f"{least} to {most}"
            raise ValueError(f"must be {bounds}")
        return number

    return parse


def _port(value: str) -> int:
    return _integer(0, 65_535)(value)


def _port_or_none(value: str) -> int | None:
    return None if value.upper() == "NONE" else _port(value)


def _boolean(value: str) -> bool:
    if value.lower() in {"true", "1", "yes"}:
        return True
    if value.lower() in {"false", "0", "no", ""}:
        return False
    raise ValueError("must be true or false")


def _labels(value: str) -> tuple[str, ...]:
    return tuple(sorted({label.strip() for label in value.split(",") if label.strip()}))


def _metrics(value: str) -> MetricsSettings:
    kind, _, rest = value.partition(":")
    if kind == "disabled":
        return MetricsSettings()
    if kind == "statsd":
        # The default of KServe ModelMesh. StatsD is not served; `unsupported` says so.
        return MetricsSettings()
    if kind != "prometheus":
        raise ValueError("must start with 'prometheus' or be 'disabled'")
    options = dict(item.partition("=")[::2] for item in rest.split(";") if item)
    known = {"port", "scheme", "fq_names", "per_model_metrics", "mem_detail"}
    if unknown := options.keys() - known:
        raise ValueError(f"unknown option {min(unknown)!r}; known: {', '.join(sorted(known))}")
    scheme = options.get("scheme", "https")
    if scheme not in {"http", "https"}:
        raise ValueError(f"scheme {scheme!r} must be http or https")
    if scheme == "https":
        raise ValueError("scheme https is not served; add ';scheme=http'")
    return MetricsSettings(
        port=_port(options.get("port", "2112")),
        full_method_names=_boolean(options.get("fq_names", "false")),
        per_model=_boolean(options.get("per_model_metrics", "false")),
    )


def _dataplane_config(value: str) -> Mapping[str, Any]:
    config = json.loads(value)
    if not isinstance(config, dict):
        raise TypeError("must be a JSON object")
    if unknown := config.keys() - {"rpcConfigs", "allowOtherRpcs"}:
        raise ValueError(f"unknown property {min(unknown)!r}; known: rpcConfigs, allowOtherRpcs")
    for method, rpc in config.get("rpcConfigs", {}).items():
        if unknown := rpc.keys() - {"idExtractionPath", "vModelId"}:
            raise ValueError(f"unknown property {min(unknown)!r} of {method}")
        path = rpc.get("idExtractionPath") or []
        if not all(isinstance(number, int) and number > 0 for number in path):
            raise ValueError(
                f"idExtractionPath of {method} must be a list of protobuf field numbers, got {path}"
            )
    return config


def _dataplane_config_file(value: str) -> Mapping[str, Any]:
    return _dataplane_config(Path(value).read_text(encoding="utf-8"))


def setting(
    names: str,
    parse: Callable[[str], object],
    meaning: str,
    *,
    default: T,
) -> T:
    """A field read from the first of ``names`` (separated by spaces; later ones are older names) that is set."""
    # dataclasses.field is typed as returning the field's type, which is what makes annotations work.
    return field(
        default=default, metadata={"names": tuple(names.split()), "parse": parse, "meaning": meaning}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one instance. See `describe` for meanings."""

    instance_id: str = setting(
        "WKUBE_POD_NAME", _text, "name of the pod; its last 12 characters are the instance id", default=""
    )
    service_name: str = setting(
        "MM_SERVICE_NAME TAS_SERVICE_NAME",
        _text,
        "name of the mesh; instances of one name work together",
        default="",
    )
    address: str = setting(
        "WKUBE_POD_IPADDR", _text, "IP address at which other instances reach this one", default="127.0.0.1"
    )
    host: str = setting(
        "MM_BIND_ADDRESS", _text, "IP address to listen on for requests and peers", default="0.0.0.0"
    )
    kv_store: str = setting(
        "KV_STORE",
        _text,
        "registry: etcd:<file.json>, etcd:<host:port>[,...][;rootPrefix=P], or memory:",
        default="",
    )
    kv_prefix: str = setting(
        "MM_KVSTORE_PREFIX", _text, "prefix of registry keys; never change it in place", default="tas-runtime"
    )
    port: int = setting(
        "MM_SVC_GRPC_PORT TAS_SVC_GRPC_PORT", _port, "port for requests and the management API", default=8033
    )
    peer_port: int = setting("MM_PEER_PORT", _port, "port for other instances", default=8080)
    probe_port: int | None = setting(
        "MM_PROBE_PORT", _port_or_none, "port of /ready and /live; NONE turns them off", default=8089
    )
    metrics: MetricsSettings = setting(
        "MM_METRICS",
        _metrics,
        "'disabled' or prometheus[:port=2112;scheme=http;fq_names=false;per_model_metrics=false]",
        default=MetricsSettings(),
    )
    max_message_bytes: int = setting(
        "MM_SVC_GRPC_MAX_MSG_SIZE", _integer(1_024), "largest message, bytes", default=16 << 20
    )
    max_metadata_bytes: int = setting(
        "MM_SVC_GRPC_MAX_HEADERS_SIZE", _integer(1_024), "largest request metadata, bytes", default=8 << 10
    )
    max_connection_age_s: int = setting(
        "MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS",
        _integer(0),
        "age at which connections are renewed, s; 0 is never",
        default=0,
    )
    max_connection_age_grace_s: int = setting(
        "MM_SVC_GRPC_MAX_CONNECTION_AGE_GRACE_SECS",
        _integer(0),
        "time for requests of an old connection, s; 0 is any",
        default=0,
    )
    runtime_port: int | None = setting(
        "INTERNAL_GRPC_PORT", _port, "port of the model server's management API; default 8085", default=None
    )
    runtime_socket: str = setting(
        "INTERNAL_GRPC_SOCKET_PATH",
        _text,
        "unix socket of the model server; default /tmp/mmesh/grpc.sock",
        default="",
    )
    serving_port: int | None = setting(
        "INTERNAL_SERVING_GRPC_PORT",
        _port,
        "port for inference, where it differs from the management port",
        default=None,
    )
    serving_socket: str = setting(
        "INTERNAL_SERVING_GRPC_SOCKET_PATH", _text, "unix socket for inference, where it differs", default=""
    )
    location: str = setting(
        "MM_LOCATION", _text, "where the pod runs, for people; default its address", default=""
    )
    zone: str = setting("MM_ZONE", _text, "zone of the pod, for people", default="")
    labels: tuple[str, ...] = setting(
        "MM_LABELS", _labels, "labels of the instance, separated by commas", default=()
    )
    version: str = setting(
        "SERVICE_VERSION", _text, "version of this deployment, such as build-20261121-1", default=""
    )
    dataplane_config: Mapping[str, Any] | None = setting(
        "MM_DATAPLANE_CONFIG",
        _dataplane_config,
        "JSON: which methods may be called and where the id is",
        default=None,
    )
    dataplane_config_file: Mapping[str, Any] | None = setting(
        "MM_DATAPLANE_CONFIG_PATH", _dataplane_config_file, "the same in a file", default=None
    )
    max_queued_per_copy: int = setting(
        "MM_MAX_INFLIGHT_PER_MODEL_COPY",
        _integer(-(2**31)),
        "requests at a copy of a model with limited concurrency, waiting ones included; 0 is "
        "max(16, 8 x limit), negative any number",
        default=0,
    )
    load_failure_expiry_ms: int = setting(
        "MM_LOAD_FAILURE_EXPIRY_TIME_MS",
        _integer(1_000),
        "time before a failed load is tried again on the same instance, ms; half while the model is in use",
        default=900_000,
    )
    min_churn_age_ms: int | None = setting(
        "MESH_MIN_CHURN_AGE_MS",
        _integer(0),
        "a copy used more recently than this is not evicted for a model that is not loaded, ms; default "
        "ten times a third of the loading timeout",
        default=None,
    )
    shutdown_timeout_ms: int = setting(
        "SHUTDOWN_TIMEOUT_MS",
        _integer(1_000),
        "budget for handing models over when told to stop, ms",
        default=30_000,
    )
    pull_models: bool = setting(
        "USE_EMBEDDED_PULLER",
        _boolean,
        "fetch model data from storage before the model server loads it",
        default=False,
    )
    models_dir: str = setting("ROOT_MODEL_DIR", _text, "where pulled models go", default="/models")
    storage_config_dir: str = setting(
        "STORAGE_CONFIG_DIR",
        _text,
        "directory of storage credentials, one JSON file each",
        default="/storage-config",
    )
    pvc_mounts_dir: str = setting(
        "PVC_MOUNTS_DIR", _text, "directory of mounted volume claims", default="/pvc_mounts"
    )
    local_models_dirs: tuple[str, ...] = setting(
        "MESH_LOCAL_MODEL_DIRS",
        _labels,
        "directories that storage type 'local' may read, separated by commas",
        default=(),
    )
    adapter: str = setting(
        "MESH_ADAPTER",
        _text,
        "model server beside this instance: spi (speaks mmesh.ModelRuntime), mlserver, triton, or none "
        "(a pure router)",
        default="spi",
    )
    run_dir: str = setting(
        "MESH_RUN_DIR",
        _text,
        "directory for the instance's own socket; default the system's for temporary files",
        default="",
    )
    shards: int = setting("MESH_DATAPLANE_SHARDS", _integer(1, 64), "threads that move bytes", default=1)
    log_level: str = setting("MESH_LOG_LEVEL", _text, "DEBUG, INFO, WARNING or ERROR", default="INFO")

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> "Settings":
        """Reads and checks every setting.

        Raises:
            SettingError: a value is not of its type or out of range, or two settings exclude each other.
        """
        values: dict[str, Any] = {}
        for spec in fields(Settings):
            for name in spec.metadata["names"]:
                if name not in environment:
                    continue
                try:
                    values[spec.name] = spec.metadata["parse"](environment[name])
                except (ValueError, TypeError, OSError) as error:
                    raise SettingError(
                        f"{name}={environment[name]!r}: {error} ({spec.metadata['meaning']})"
                    ) from None
                break
        pod_name = values.get("instance_id") or os.uname().nodename
        values["instance_id"] = pod_name[-INSTANCE_ID_LENGTH:].lstrip("-")
        values["location"] = values.get("location") or values.get("address", "127.0.0.1")
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
            ("dataplane_config", "dataplane_config_file"),
        ):
            if getattr(self, one) and getattr(self, other):
                raise SettingError(f"{_name_of(one)} and {_name_of(other)} are both set: unset one of them")
        if self.adapter not in {"spi", "mlserver", "triton", "none"}:
            raise SettingError(f"MESH_ADAPTER={self.adapter!r}: must be spi, mlserver, triton or none")

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
        for spec in fields(Settings)
    ]


def _default_text(value: object) -> str:
    match value:
        case None | "" | ():
            return ""
        case MetricsSettings():
            return "disabled"
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def _name_of(field_name: str) -> str:
    return next(str(spec.metadata["names"][0]) for spec in fields(Settings) if spec.name == field_name)
