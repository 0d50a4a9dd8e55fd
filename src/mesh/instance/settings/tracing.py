"""Where traces go, by OpenTelemetry's own variables.

What is not here (headers, certificates, timeouts, attributes of the resource), OpenTelemetry's SDK reads itself.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mesh.instance.settings.fields import boolean, integer, read, setting, text

log = logging.getLogger(__name__)

#: Samplers by name: the share of traces, None for the argument's, and whether a parent's decision holds.
_SAMPLERS: dict[str, tuple[float | None, bool]] = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}


def exporter_name(value: str) -> str:
    """``otlp`` or ``none``, or nothing."""
    if value in {"", "otlp", "none"}:
        return value
    raise ValueError("must be otlp or none")


def protocol_name(value: str) -> Literal["grpc", "http/protobuf"]:
    """``grpc`` or ``http/protobuf``."""
    match value:
        case "grpc" | "http/protobuf":
            return value
        case "":
            return "http/protobuf"
        case _:
            raise ValueError("must be grpc or http/protobuf")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """Of one instance. See `describe` for meanings."""

    exporter: str = setting(
        "OTEL_TRACES_EXPORTER",
        exporter_name,
        "otlp: requests are traced; none: they are not; default otlp where an endpoint is set",
        default="",
    )
    endpoint: str = setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        text,
        "URL of an OpenTelemetry collector; default http://localhost:4318, for grpc http://localhost:4317",
        default="",
    )
    traces_endpoint: str = setting(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        text,
        "the same for traces alone; for http/protobuf with its path, such as /v1/traces",
        default="",
    )
    protocol: Literal["grpc", "http/protobuf"] = setting(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL OTEL_EXPORTER_OTLP_PROTOCOL",
        protocol_name,
        "how the collector is spoken to: http/protobuf or grpc",
        default="http/protobuf",
    )
    sampler: str = setting(
        "OTEL_TRACES_SAMPLER",
        text,
        "which requests are traced: always_on, always_off, traceidratio, or one of these after parentbased_, where "
        "what a caller has decided holds",
        default="parentbased_always_on",
    )
    sampler_arg: str = setting(
        "OTEL_TRACES_SAMPLER_ARG", text, "share of traces for traceidratio, 0 to 1; default 1", default=""
    )
    max_queued: int = setting(
        "OTEL_BSP_MAX_QUEUE_SIZE",
        integer(512),
        "spans that wait for the collector at most; further ones are lost and counted",
        default=2_048,
    )
    disabled: bool = setting(
        "OTEL_SDK_DISABLED", boolean, "turns tracing off whatever else is set", default=False
    )

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> "TracingSettings":
        """Reads these settings alone.

        Raises:
            SettingError: a value is not of its type or out of range.
        """
        return TracingSettings(**read(TracingSettings, environment))

    @property
    def on(self) -> bool:
        """Whether requests are to be traced."""
        if self.disabled or self.exporter == "none":
            return False
        return self.exporter == "otlp" or bool(self.endpoint or self.traces_endpoint)

    @property
    def url(self) -> str:
        """Where traces go."""
        if self.traces_endpoint:
            return self.traces_endpoint
        if self.protocol == "grpc":
            return self.endpoint or "http://localhost:4317"
        return f"{(self.endpoint or 'http://localhost:4318').rstrip('/')}/v1/traces"

    @property
    def sampling(self) -> tuple[float, bool]:
        """The share of traces that are sampled, and whether a parent's decision holds.

        What cannot be understood is warned about and has no effect, as OpenTelemetry's specification demands.
        """
        known = _SAMPLERS.get(self.sampler.lower())
        if known is None:
            log.warning(
                "OTEL_TRACES_SAMPLER=%r is none of %s: parentbased_always_on holds",
                self.sampler,
                ", ".join(_SAMPLERS),
            )
            known = (1.0, True)
        share, follows_parents = known
        return self._share() if share is None else share, follows_parents

    def _share(self) -> float:
        try:
            share = float(self.sampler_arg or 1)
        except ValueError:
            share = -1.0
        if 0 <= share <= 1:
            return share
        log.warning("OTEL_TRACES_SAMPLER_ARG=%r must be 0 to 1: all traces are sampled", self.sampler_arg)
        return 1.0
