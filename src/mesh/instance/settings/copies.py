"""How many copies models have, where their policies leave it to the mesh."""

from dataclasses import dataclass

from mesh.instance.settings.fields import boolean, integer, setting
from mesh.placement.copies import ScalingFigures

_DEFAULTS = ScalingFigures()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySettings:
    """When copies are added, taken away and moved. See `describe` for meanings."""

    scaleup_rpm_threshold: int = setting(
        "MM_SCALEUP_RPM_THRESHOLD",
        integer(10),
        "requests per minute that one copy is to take before there are more; the config key scaleup_rpm_threshold "
        "goes before it",
        default=_DEFAULTS.rpm_threshold,
    )
    bandwidth_percent: int = setting(
        "MM_CONC_SCALEUP_BANDWIDTH_PCT",
        integer(10, 200),
        "part of what a copy of limited concurrency can take at its latency, before there are more, percent",
        default=_DEFAULTS.bandwidth_percent,
    )
    in_flight_threshold: int = setting(
        "MESH_SCALEUP_IN_FLIGHT",
        integer(0),
        "requests in flight at one copy of unlimited concurrency before there are more; 0 for any number",
        default=_DEFAULTS.in_flight_threshold,
    )
    look_interval_ms: int = setting(
        "MESH_RATE_CHECK_MS",
        integer(100),
        "time between two looks at how much copies are used, ms; sudden load is seen at once",
        default=_DEFAULTS.interval_ms,
    )
    second_copy_min_age_s: int = setting(
        "MESH_SECOND_COPY_MIN_AGE_S",
        integer(1),
        "a model gets a second copy if it is used and was used at least so long ago, s",
        default=_DEFAULTS.second_copy_min_age_ms // 1_000,
    )
    second_copy_max_age_s: int = setting(
        "MESH_SECOND_COPY_MAX_AGE_S",
        integer(1),
        "and at most so long ago, s",
        default=_DEFAULTS.second_copy_max_age_ms // 1_000,
    )
    calm_s: int = setting(
        "MESH_SCALEDOWN_CALM_S",
        integer(1),
        "a third copy goes after its load was low for so long, s",
        default=_DEFAULTS.calm_ms // 1_000,
    )
    young_s: int = setting(
        "MESH_SCALEDOWN_YOUNG_S",
        integer(0),
        "and when the newest copy is so old, s",
        default=_DEFAULTS.young_ms // 1_000,
    )
    spare_idle_s: int = setting(
        "MESH_SPARE_COPY_IDLE_S",
        integer(0),
        "a second copy goes when it was not used for so long, also where memory is free, s; 0 for only where it is "
        "short",
        default=_DEFAULTS.spare_idle_ms // 1_000,
    )
    idle_ttl_s: int = setting(
        "MESH_IDLE_TTL_S",
        integer(0),
        "a model is unloaded when it was not used for so long, s; 0 for never; its policy goes before it",
        default=_DEFAULTS.idle_ttl_ms // 1_000,
    )
    rebalance: bool = setting(
        "MESH_REBALANCE",
        boolean,
        "whether copies move from full and busy instances to ones with room",
        default=True,
    )

    @property
    def figures(self) -> ScalingFigures:
        """For the decisions."""
        return ScalingFigures(
            rpm_threshold=self.scaleup_rpm_threshold,
            bandwidth_percent=self.bandwidth_percent,
            in_flight_threshold=self.in_flight_threshold,
            interval_ms=self.look_interval_ms,
            second_copy_min_age_ms=self.second_copy_min_age_s * 1_000,
            second_copy_max_age_ms=self.second_copy_max_age_s * 1_000,
            calm_ms=self.calm_s * 1_000,
            young_ms=self.young_s * 1_000,
            spare_idle_ms=self.spare_idle_s * 1_000,
            idle_ttl_ms=self.idle_ttl_s * 1_000,
        )
