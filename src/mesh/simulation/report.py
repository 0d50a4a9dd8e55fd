"""What came of a simulation, in figures."""

from collections import Counter
from dataclasses import dataclass, field

from mesh.placement import UNIT_BYTES, Refusal, ReportEvicted

#: Buckets to each doubling of a latency: a figure is off by at most a sixteenth.
_STEPS = 16


class Latencies:
    """How often each latency occurred, in buckets that are finer than 7 %."""

    __slots__ = ("_buckets", "count", "total_us")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total_us = 0

    def add(self, latency_us: int, times: int = 1) -> None:
        """Counts a latency, or takes one back with ``times`` -1."""
        shift = max(0, latency_us.bit_length() - 5)
        self._buckets[shift * 2 * _STEPS + (latency_us >> shift)] += times
        self.count += times
        self.total_us += latency_us * times

    def quantile_us(self, share: float) -> int:
        """Returns: the latency, microseconds, that the given share of requests did not exceed; 0 without any."""
        wanted = share * self.count
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted and self._buckets[bucket]:
                return _upper_us(bucket)
        return 0

    def clear(self) -> None:
        """Forgets all."""
        self._buckets.clear()
        self.count = self.total_us = 0

    @property
    def mean_us(self) -> float:
        """The mean, microseconds; 0 without requests."""
        return self.total_us / self.count if self.count else 0.0

    def distribution(self) -> list[tuple[int, int]]:
        """Returns: upper bounds in microseconds with the number of requests in each bucket, ascending."""
        return [(_upper_us(bucket), times) for bucket, times in sorted(self._buckets.items()) if times]


def _upper_us(bucket: int) -> int:
    shift, mantissa = divmod(bucket, 2 * _STEPS)
    return ((mantissa + 1) << shift) - 1


@dataclass(frozen=True, slots=True)
class Moment:
    """The figures so far, at one moment of a run."""

    time_s: float
    served: int
    cold: int
    failed: int
    loads: int
    evictions: int
    used_share: float


@dataclass(slots=True)
class Report:
    """The figures of one run.

    Attributes:
        cold: requests that waited for a load.
        failed: requests that ended in an error, by reason.
        lost: requests whose own instance died under them.
        retried: requests that were sent again because their copy's instance died.
        latencies: of all requests that were served.
        cold_latencies: of those that waited for a load.
        loads: that were begun.
        load_us: that loads took together.
        loads_by_instance: begun loads of each instance.
        evictions: copies evicted, by reason.
        evicted_units: their sizes together, units of 8 KiB.
        young_evictions: copies evicted within a minute of their load.
        copies_added: of models that were asked too much, or again and again.
        refusals: loads that were refused, by reason.
        requests_by_instance: served by each instance's model server.
        timeline: how the figures grew.
    """

    cold: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    retried: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    cold_latencies: Latencies = field(default_factory=Latencies)
    loads: int = 0
    load_us: int = 0
    loads_failed: int = 0
    loads_by_instance: Counter[str] = field(default_factory=Counter)
    evictions: Counter[str] = field(default_factory=Counter)
    evicted_units: int = 0
    young_evictions: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    capacity_lost: int = 0
    copies_added: int = 0
    requests_by_instance: Counter[str] = field(default_factory=Counter)
    used_share: float = 0.0
    registry_writes: int = 0
    simulated_us: int = 0
    events: int = 0
    timeline: list[Moment] = field(default_factory=list)

    def note_moment(self, time_us: int, used_share: float) -> None:
        """Keeps the figures so far."""
        self.timeline.append(
            Moment(
                time_us / 1e6,
                self.latencies.count,
                self.cold,
                self.failures,
                self.loads,
                sum(self.evictions.values()),
                used_share,
            )
        )

    def clear(self) -> None:
        """Begins to count: what was until now was warming up."""
        self.latencies.clear()
        self.cold_latencies.clear()
        self.timeline.clear()
        for counts in (
            self.failed,
            self.loads_by_instance,
            self.evictions,
            self.refusals,
            self.requests_by_instance,
        ):
            counts.clear()
        self.cold = self.lost = self.retried = self.loads = self.load_us = self.loads_failed = 0
        self.evicted_units = self.young_evictions = self.capacity_lost = self.copies_added = 0

    def served(self, latency_us: int, *, waited: bool) -> None:
        """A request was served."""
        if waited:
            self.cold += 1
            self.cold_latencies.add(latency_us)
        self.latencies.add(latency_us)

    def take_back(self, latency_us: int, *, waited: bool) -> None:
        """A request that was thought to be served was cut off."""
        if waited:
            self.cold -= 1
            self.cold_latencies.add(latency_us, -1)
        self.latencies.add(latency_us, -1)

    def refused(self, reason: Refusal) -> None:
        """A load was refused."""
        self.refusals[reason.value] += 1

    def evicted(self, report: ReportEvicted) -> None:
        """A copy was evicted."""
        self.evictions[report.reason.value] += 1
        self.evicted_units += report.units
        if report.loaded_for_ms < 60_000:
            self.young_evictions += 1

    @property
    def hits(self) -> int:
        """Requests that found a loaded copy."""
        return self.latencies.count - self.cold

    @property
    def requests(self) -> int:
        """All requests that ended."""
        return self.hits + self.cold + self.failures + self.lost

    @property
    def failures(self) -> int:
        """Requests that ended in an error."""
        return sum(self.failed.values())

    @property
    def hit_rate(self) -> float:
        """Share of the requests that found a loaded copy."""
        return self.hits / self.requests if self.requests else 0.0

    @property
    def cold_share(self) -> float:
        """Share of the requests that waited for a load."""
        return self.cold / self.requests if self.requests else 0.0

    @property
    def load_spread(self) -> float:
        """Loads of the instance with the most, as a multiple of the mean; 0 without loads."""
        return _spread(self.loads_by_instance)

    @property
    def request_spread(self) -> float:
        """Requests of the instance with the most, as a multiple of the mean; 0 without requests."""
        return _spread(self.requests_by_instance)

    def rows(self) -> list[tuple[str, str]]:
        """Returns: the figures with their names, for people."""
        latencies, cold = self.latencies, self.cold_latencies
        return [
            ("requests", f"{self.requests:,}"),
            ("hit rate", f"{self.hit_rate:.2%}"),
            ("cold starts", f"{self.cold:,} ({self.cold_share:.2%})"),
            ("failed", _counts(self.failed)),
            ("lost with the instance they came to", f"{self.lost:,}"),
            ("sent again after a crash", f"{self.retried:,}"),
            *(
                (f"latency p{share * 100:g}", _duration(latencies.quantile_us(share)))
                for share in (0.5, 0.9, 0.99, 0.999)
            ),
            ("latency, mean", _duration(latencies.mean_us)),
            (
                "cold start p50, p99",
                f"{_duration(cold.quantile_us(0.5))}, {_duration(cold.quantile_us(0.99))}",
            ),
            ("time spent waiting for loads", _duration(cold.total_us)),
            ("loads", f"{self.loads:,} ({self.loads_failed:,} failed)"),
            ("loads on the busiest instance", f"{self.load_spread:.2f} x the mean"),
            ("requests on the busiest instance", f"{self.request_spread:.2f} x the mean"),
            ("further copies of models in much use", f"{self.copies_added:,}"),
            ("evictions", _counts(self.evictions)),
            ("evicted within a minute of the load", f"{self.young_evictions:,}"),
            ("evicted", f"{self.evicted_units * UNIT_BYTES / 2**30:,.1f} GiB"),
            ("refused loads", _counts(self.refusals)),
            ("memory in use at the end", f"{self.used_share:.1%}"),
            ("writes to the registry", f"{self.registry_writes:,}"),
            ("simulated time", _duration(self.simulated_us)),
        ]


def _spread(counts: Counter[str]) -> float:
    total = sum(counts.values())
    return max(counts.values()) * len(counts) / total if total else 0.0


def _counts(counts: Counter[str]) -> str:
    total = sum(counts.values())
    if not total:
        return "0"
    return f"{total:,} ({', '.join(f'{reason} {count:,}' for reason, count in counts.most_common())})"


def _duration(time_us: float) -> str:
    if time_us < 1_000:
        return f"{time_us:.0f} us"
    if time_us < 1_000_000:
        return f"{time_us / 1_000:.1f} ms"
    if time_us < 600_000_000:
        return f"{time_us / 1_000_000:.1f} s"
    return f"{time_us / 3_600_000_000:.1f} h"
