"""Where metrics go, with which labels, and how much of them there may be."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mesh.instance.settings.fields import SettingError, boolean, integer, port_number, setting, text

#: What KServe ModelMesh does where nothing is set.
DEFAULT_METRICS = "statsd:port=8126"
#: Labels of an info metric, at most; as in KServe ModelMesh.
MAX_INFO_LABELS = 4

_OPTION = re.compile(r"([A-Za-z_]+)=(.*)", re.DOTALL)
_KNOWN = {
    "prometheus": {"port", "scheme", "fq_names", "per_model_metrics", "mem_detail"},
    "statsd": {"port", "fq_names", "legacy"},
}
_MEMORY_DETAILS = {"all", "none", "netty", "gc", "bp", "mp", "ma"}


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """What ``MM_METRICS`` says.

    Attributes:
        port: where Prometheus scrapes; None without such a port.
        https: scrapes are encrypted.
        full_method_names: label methods ``package.Service/Method`` instead of ``Method``.
        per_model: add ``modelId`` and ``vModelId`` labels to histograms.
        statsd_port: where a StatsD server listens; None without one.
        statsd_legacy: send StatsD names as they were before they became those of Prometheus.
        off_because: why there are no metrics although some are wanted; for the log.
    """

    port: int | None = None
    https: bool = False
    full_method_names: bool = False
    per_model: bool = False
    statsd_port: int | None = None
    statsd_legacy: bool = False
    off_because: str = ""

    def __str__(self) -> str:
        if self.statsd_port is not None:
            return f"statsd:port={self.statsd_port}"
        return "disabled" if self.port is None else f"prometheus:port={self.port}"


def metrics_settings(value: str) -> MetricsSettings:
    """What ``MM_METRICS`` says.

    As in KServe ModelMesh an option that is not known, or has no such value, turns metrics off and nothing else.

    Raises:
        ValueError: it is not of the form ``kind`` or ``kind:name=value;name=value``.
    """
    kind, colon, rest = value.strip().partition(":")
    if kind == "disabled" and not colon:
        return MetricsSettings()
    if kind not in _KNOWN:
        raise ValueError(
            "must be 'disabled', or start with 'prometheus' or 'statsd': "
            "for example prometheus:port=2112;scheme=http"
        )
    options = {}
    for item in rest.split(";"):
        if not item.strip():
            continue
        found = _OPTION.fullmatch(item.strip())
        if found is None:
            raise ValueError(
                f"{item!r} is no option: give name=value, separated by semicolons, "
                "as in prometheus:port=2112;scheme=http"
            )
        options[found[1]] = found[2]
    try:
        return _prometheus(options) if kind == "prometheus" else _statsd(options)
    except ValueError as error:
        return MetricsSettings(off_because=f"MM_METRICS={value!r}: {error}")


def _prometheus(options: Mapping[str, str]) -> MetricsSettings:
    _check_names("prometheus", options)
    scheme = options.get("scheme", "https")
    if scheme not in {"http", "https"}:
        raise ValueError(f"scheme {scheme!r} must be http or https")
    details = {detail.strip() for detail in options.get("mem_detail", "all").split(",")}
    if unknown := details - _MEMORY_DETAILS:
        raise ValueError(
            f"mem_detail {min(unknown)!r} must be all, none or names of {', '.join(sorted(_MEMORY_DETAILS))}"
        )
    return MetricsSettings(
        port=_port(options, 2112),
        https=scheme == "https",
        full_method_names=_flag(options, "fq_names"),
        per_model=_flag(options, "per_model_metrics"),
    )


def _statsd(options: Mapping[str, str]) -> MetricsSettings:
    _check_names("statsd", options)
    return MetricsSettings(
        statsd_port=_port(options, 8126),
        statsd_legacy=_flag(options, "legacy"),
        full_method_names=_flag(options, "fq_names"),
    )


def _check_names(kind: str, options: Mapping[str, str]) -> None:
    if unknown := options.keys() - _KNOWN[kind]:
        known = ", ".join(sorted(_KNOWN[kind]))
        raise ValueError(f"{kind} has no option {min(unknown)!r}; it has {known}")


def _port(options: Mapping[str, str], default: int) -> int:
    try:
        return port_number(options.get("port", str(default)))
    except ValueError:
        raise ValueError(f"port {options['port']!r} must be a number from 0 to 65535") from None


def _flag(options: Mapping[str, str], name: str) -> bool:
    try:
        return boolean(options.get(name, "false"))
    except ValueError as error:
        raise ValueError(f"{name} {options[name]!r} {error}") from None


@dataclass(frozen=True, slots=True)
class InfoMetric:
    """A gauge of value 1 whose labels tell something of the pod.

    Attributes:
        name: whole, without the prefix of others.
        labels: pairs of a name and a value; while settings are read, of a name and an environment variable.
    """

    name: str
    labels: tuple[tuple[str, str], ...]

    def resolved(self, environment: Mapping[str, str]) -> "InfoMetric":
        """The metric with the values of its environment variables.

        Raises:
            SettingError: one is not set.
        """
        for label, variable in self.labels:
            if variable not in environment:
                raise SettingError(
                    f"MM_INFO_METRICS: the environment variable {variable} of label {label!r} is not set; "
                    "set it or leave the label out"
                )
        return InfoMetric(self.name, tuple((label, environment[name]) for label, name in self.labels))


def info_metric(value: str) -> InfoMetric | None:
    """What ``MM_INFO_METRICS`` says: ``name;label=VARIABLE,label=VARIABLE``.

    Raises:
        ValueError: it is not of this form or has too many labels.
    """
    if not value.strip():
        return None
    name, semicolon, rest = value.partition(";")
    name = name.strip()
    if not re.fullmatch(r"[a-z_:]+", name):
        raise ValueError(f"name {name!r} must be of a to z, '_' and ':'")
    labels: dict[str, str] = {}
    for pair in rest.split(",") if semicolon else ():
        label, equals, variable = (part.strip() for part in pair.partition("="))
        if not equals or not variable or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label):
            raise ValueError(f"{pair!r} must be label=VARIABLE, separated from others by commas")
        if label in labels:
            raise ValueError(f"label {label!r} is there twice")
        labels[label] = variable
    if not labels:
        raise ValueError("has no label: give name;label=VARIABLE")
    if len(labels) > MAX_INFO_LABELS:
        raise ValueError(f"has {len(labels)} labels, of which there may be {MAX_INFO_LABELS}")
    return InfoMetric(name, tuple(labels.items()))


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """What ``MM_METRICS`` has no word for. See `mesh.instance.settings.describe` for meanings."""

    info: InfoMetric | None = setting(
        "MM_INFO_METRICS",
        info_metric,
        "a gauge of value 1 that tells environment variables: name;label=VARIABLE,label=VARIABLE",
        default=None,
    )
    certificate: str = setting(
        "MESH_METRICS_TLS_CERT",
        text,
        "PEM file with the certificate for scrapes over https, and those that sign it; "
        "default one made at start, signed by itself",
        default="",
    )
    key: str = setting("MESH_METRICS_TLS_KEY", text, "PEM file with that certificate's key", default="")
    max_model_series: int = setting(
        "MESH_METRICS_MAX_SERIES",
        integer(0),
        "series of models that one family of histograms may have; what is beyond is shown without its model",
        default=20_000,
    )
    idle_ms: int = setting(
        "MESH_METRICS_MODEL_IDLE_MS",
        integer(1),
        "time after its last use at which a model's series is dropped, ms",
        default=3_600_000,
    )
    log_scrapes: bool = setting("MM_LOG_PROMETHEUS_REQS", boolean, "log each scrape", default=False)
    statsd_host: str = setting(
        "MESH_STATSD_HOST", text, "host of the StatsD server of MM_METRICS", default="127.0.0.1"
    )
    statsd_interval_ms: int = setting(
        "MESH_STATSD_INTERVAL_MS",
        integer(10),
        "time between two times that metrics are sent to StatsD, ms",
        default=5_000,
    )
