"""The figures by which copies are added and taken away."""

from dataclasses import dataclass

#: With fewer answers than this the mean latency of a copy says nothing; as KServe ModelMesh has it.
ENOUGH_ANSWERS = 8


@dataclass(frozen=True, slots=True)
class ScalingFigures:
    """When a model gets another copy and when it loses one. Defaults of KServe ModelMesh unless said otherwise.

    Attributes:
        rpm_threshold: requests per minute that one copy is to take.
        bandwidth_percent: of what a copy with limited concurrency can take; at so much it counts as asked too much.
        interval_ms: rates and uses are looked at over so long, milliseconds.
        in_flight_threshold: requests that one copy without limit is to have in flight, 0 for any number; the target of
            Knative's autoscaler, since a slow model is overloaded long before its rate is high.
        second_copy_min_age_ms: a use at least so long ago, besides one now, makes a use recurring.
        second_copy_max_age_ms: one longer ago does not count.
        full_share: no copy is added for recurring use where more of the memory is taken, unless what is evicted next
            was not used for `unmissed_ms`.
        calm_ms: a model with more than two copies loses one when its load was low for so long, or up to twice as
            long, and the newest copy is `young_ms` old.
        young_ms: see ``calm_ms``.
        unload_pause_ms: between two copies of one model that are taken away.
        pressure_share: with less of the memory free there is pressure, and unused copies go sooner.
        spare_idle_ms: the second copy of a model is taken away where it was not used for so long, also without
            pressure; a rule of our own, 0 to do without it.
        spare_idle_cap_ms: under pressure a second copy goes when unused for a tenth of the age of the least recently
            used one, and at most this.
        idle_ttl_ms: copies not used for so long are taken away, the last one as well, where the model's policy has no
            time of its own; 0 for never, as in KServe ModelMesh.
        share_per_run: of the capacity, that one look takes away at most; one copy in any case.
    """

    rpm_threshold: int = 2_000
    bandwidth_percent: int = 90
    in_flight_threshold: int = 100
    interval_ms: int = 10_000
    second_copy_min_age_ms: int = 420_000
    second_copy_max_age_ms: int = 2_400_000
    full_share: float = 0.90
    calm_ms: int = 600_000
    young_ms: int = 1_800_000
    unload_pause_ms: int = 80_000
    pressure_share: float = 0.05
    spare_idle_ms: int = 3_600_000
    spare_idle_cap_ms: int = 36_000_000
    idle_ttl_ms: int = 0
    share_per_run: float = 0.05

    @property
    def unmissed_ms(self) -> int:
        """What was not used for so long will not be missed, milliseconds; the formula of KServe ModelMesh."""
        return max(30 * self.second_copy_max_age_ms, 21_600_000)

    def copy_rpm(self, max_concurrency: int, answers: int, service_ms: float) -> int:
        """Tells how many requests per minute one copy is to take.

        Args:
            max_concurrency: requests that it takes at once; 0 for any number.
            answers: requests that it answered lately.
            service_ms: milliseconds that these took together, time in the queue not included.

        Returns: what a copy of limited concurrency can take at its mean latency, less a reserve; `rpm_threshold` for
            one without limit, and where too few answers tell the latency.
        """
        if max_concurrency <= 0 or answers < ENOUGH_ANSWERS or service_ms <= 0:
            return self.rpm_threshold
        return max(1, int(max_concurrency * 600 * self.bandwidth_percent * answers / service_ms))
