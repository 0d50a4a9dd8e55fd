"""Where metrics are served and with which labels."""

from dataclasses import dataclass

from mesh.instance.settings.fields import boolean, port_number


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


def metrics_settings(value: str) -> MetricsSettings:
    """What ``MM_METRICS`` says."""
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
        port=port_number(options.get("port", "2112")),
        full_method_names=boolean(options.get("fq_names", "false")),
        per_model=boolean(options.get("per_model_metrics", "false")),
    )
