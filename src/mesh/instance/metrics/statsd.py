"""Metrics as StatsD servers take them. Pure: what was counted goes in, lines and packets come out.

KServe ModelMesh sends a packet for each event. Here the events of an interval are sent together: counts are exact, and
so is a time that was alone in its interval; of several, each bucket of the histogram is one line with a sample rate,
whose value lies within the bucket such that the sum of all is what it was.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mesh.dataplane import SIZE_BOUNDS_BYTES, TIME_BOUNDS_MS, HistogramSample
from mesh.instance.metrics.families import HISTOGRAMS, PREFIX

#: Bytes of a packet, at most; as in KServe ModelMesh, so that it fits into one frame of an Ethernet.
MAX_PACKET = 1_400
#: In which the older flavour tells memory, bytes.
_UNIT = 8_192


@dataclass(frozen=True, slots=True)
class _Names:
    """How the observations of a family are named.

    Attributes:
        old: of the times or sizes in the older flavour.
        counter: of the count beside them, without prefix; empty for none.
        old_counter: the same in the older flavour.
        requests: they have a method and a code.
        ok_alone: only those of successful requests are sent.
    """

    old: str
    counter: str = ""
    old_counter: str = ""
    requests: bool = False
    ok_alone: bool = False


_OBSERVED = {
    "api_request_milliseconds": _Names("api-", "api_request", "api-", requests=True, ok_alone=True),
    "invoke_model_milliseconds": _Names("invoke-", "invoke_model", "invoke-", requests=True, ok_alone=True),
    "request_size_bytes": _Names("reqSize-", requests=True),
    "response_size_bytes": _Names("respSize-", requests=True),
    "cache_miss_milliseconds": _Names("cacheMiss", "cache_miss", "cacheMiss"),
    "loadmodel_milliseconds": _Names("loadModel", "loadmodel", "loadModel"),
    "unloadmodel_milliseconds": _Names("unloadModel", "unloadmodel", "unloadModel"),
    "req_queue_delay_milliseconds": _Names("queueDelay"),
    "loading_queue_delay_milliseconds": _Names("loadModelQueueDelay"),
    "model_sizing_milliseconds": _Names("sizeModel"),
    "age_at_eviction_milliseconds": _Names("cache_evictModel", "model_evicted", "cache_evictModel"),
    "loaded_model_size_bytes": _Names("mmModelSizeBytes"),
}
_COUNTED = {
    "loadmodel_failure": "loadModel-failed",
    "unloadmodel_failure": "unloadModel-failure",
    "unloadmodel_attempt_failure": "unloadModel-attemptFailed",
}
_GAUGES = {
    "models_loaded_total": "modelsLoaded",
    "models_with_failure_total": "modelsWithLoadFailure",
    "models_managed_total": "modelsManaged",
    "instance_lru_seconds": "localLruTimestamp",
    "instance_lru_age_seconds": "localLruAge",
    "instance_capacity_bytes": "totalCapacity",
    "instance_used_bytes": "totalUsed",
    "instance_used_bps": "capacityUsage",
    "instance_models_total": "modelCount",
}
_IN_UNITS = frozenset({"instance_capacity_bytes", "instance_used_bytes"})
_BOUNDS = {
    "request_size_bytes": tuple(SIZE_BOUNDS_BYTES),
    "response_size_bytes": tuple(SIZE_BOUNDS_BYTES),
} | {name: family.bounds for name, family in HISTOGRAMS.items()}


@dataclass(frozen=True, slots=True)
class Reading:
    """What an instance counted so far, and what its gauges say now; names are without prefix."""

    histograms: Sequence[HistogramSample]
    counters: Mapping[str, int]
    gauges: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Flavour:
    """How names are made.

    Attributes:
        legacy: as they were before they became those of Prometheus, without tags.
    """

    legacy: bool = False

    def observed(self, name: str, sample: HistogramSample) -> str:
        """Of times and sizes."""
        names = _OBSERVED[name]
        if not self.legacy:
            return self._tagged(name, names, sample)
        if names.ok_alone:
            return f"model-mesh.{names.old}{_dotted(sample.method)}"
        return f"model-mesh.{names.old}{_old_end(names, sample)}"

    def counted(self, name: str, sample: HistogramSample) -> str:
        """Of the count beside times; empty where there is none."""
        names = _OBSERVED[name]
        if not names.counter:
            return ""
        if not self.legacy:
            return self._tagged(names.counter, names, sample)
        return f"model-mesh.{names.old_counter}{_old_end(names, sample)}"

    def plain(self, name: str, old: str) -> str:
        """Of what has no labels."""
        return f"model-mesh.{old}" if self.legacy else f"{PREFIX}{name}_statsd"

    @staticmethod
    def _tagged(name: str, names: _Names, sample: HistogramSample) -> str:
        tags = f"#code={sample.code},method={_dotted(sample.method)}" if names.requests else ""
        return f"{PREFIX}{name}_statsd{tags}"


def _dotted(method: str) -> str:
    return method.replace("/", ".")


def _old_end(names: _Names, sample: HistogramSample) -> str:
    return f"{_dotted(sample.method)}.{sample.code}" if names.requests else ""


def spread(counts: Sequence[int], total: float, bounds: Sequence[float]) -> Iterator[tuple[float, int]]:
    """Stands for observations of which only a histogram is known.

    Args:
        counts: observations per bucket; one more than there are bounds.
        total: their sum.
        bounds: upper bounds of the buckets, from 0.

    Returns: values and how often each was observed: one in each bucket, at the same part of its width in all, such that
        their sum is ``total``.
    """
    edges = (0.0, *bounds)
    lowest = sum(count * edge for count, edge in zip(counts, edges, strict=True))
    # What lies beyond the last bound can be as large as the sum says.
    widths = [upper - lower for lower, upper in pairwise(edges)]
    room = sum(count * width for count, width in zip(counts, widths, strict=False))
    beyond = counts[-1]
    excess = max(0.0, total - lowest)
    part = min(1.0, excess / room) if room else 0.0
    if beyond:
        # Half of what they could be: nothing tells where the rest of the sum belongs.
        part = min(part, 0.5)
    left = excess - part * room
    for index, count in enumerate(counts):
        if not count:
            continue
        if index < len(widths):
            yield edges[index] + part * widths[index], count
        else:
            yield edges[index] + left / count, count


class Statsd:
    """Turns successive readings into lines.

    Args:
        legacy: see `Flavour`.
    """

    def __init__(self, *, legacy: bool = False) -> None:
        self._flavour = Flavour(legacy)
        self._histograms: dict[tuple[str, str, str], tuple[list[int], float]] = {}
        self._counters: dict[str, int] = {}

    def lines(self, reading: Reading) -> Iterator[str]:
        """What happened since the last reading, and the gauges."""
        for sample in reading.histograms:
            if sample.name in _OBSERVED:
                yield from self._observations(sample)
        for name, old in _COUNTED.items():
            count = reading.counters[name]
            if more := count - self._counters.get(name, 0):
                yield f"{self._flavour.plain(name, old)}:{more}|c"
            self._counters[name] = count
        for name, old in _GAUGES.items():
            if (value := reading.gauges.get(name)) is not None:
                divisor = _UNIT if self._flavour.legacy and name in _IN_UNITS else 1
                yield f"{self._flavour.plain(name, old)}:{_number(value / divisor)}|g"

    def _observations(self, sample: HistogramSample) -> Iterator[str]:
        name, names = sample.name, _OBSERVED[sample.name]
        key = (name, sample.method, sample.code)
        bounds = _BOUNDS.get(name, tuple(TIME_BOUNDS_MS))
        former, former_sum = self._histograms.get(key, ([0] * len(sample.buckets), 0.0))
        counts = [now - before for now, before in zip(sample.buckets, former, strict=True)]
        more = sum(counts)
        if not more:
            return
        self._histograms[key] = (list(sample.buckets), sample.sum)
        if not names.ok_alone or sample.code == "OK":
            shown = self._flavour.observed(name, sample)
            for value, count in spread(counts, sample.sum - former_sum, bounds):
                if self._flavour.legacy and name == "loaded_model_size_bytes":
                    value /= _UNIT  # noqa: PLW2901 - the same size in its unit
                rate = "" if count == 1 else f"|@{1 / count:.9g}"
                yield f"{shown}:{_number(value)}|ms{rate}"
        if counter := self._flavour.counted(name, sample):
            yield f"{counter}:{more}|c"


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def packets(lines: Iterable[str]) -> Iterator[bytes]:
    """Joins lines to packets of at most `MAX_PACKET` bytes; a longer line, which names a method of that length, goes.

    Returns: packets without a line break at the end.
    """
    packet = b""
    for line in lines:
        encoded = line.encode()
        if len(encoded) > MAX_PACKET:
            continue
        if packet and len(packet) + 1 + len(encoded) > MAX_PACKET:
            yield packet
            packet = b""
        packet = packet + b"\n" + encoded if packet else encoded
    if packet:
        yield packet
