"""Names, meanings and buckets of what is counted in Python; those of KServe ModelMesh where it has them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client.core import GaugeMetricFamily, Metric

from mesh.dataplane import TIME_BOUNDS_MS
from mesh.placement import EvictionReason
from mesh.placement.copies import GrowthKind, MoveKind, SurplusKind

#: Of every name here.
PREFIX = "modelmesh_"

_TIME_MS = tuple(TIME_BOUNDS_MS)
#: Upper bounds of ages at eviction, milliseconds: 30 s to 90 days.
_AGE_MS = tuple(
    1_000.0 * s for s in (30, 300, 900, 3_600, 14_400, 43_200, 86_400, 604_800, 2_592_000, 7_776_000)
)
#: Upper bounds of model sizes, bytes: 256 KiB to 4 GiB.
_MODEL_SIZE = tuple(262_144.0 * 4**power for power in range(8))
#: Upper bounds of a size in parts of what it was taken for: closer together where it was nearly right.
_RATIO = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)


@dataclass(frozen=True, slots=True)
class Histogram:
    """A family of observations.

    Attributes:
        text: what is observed.
        bounds: upper bounds of the buckets.
        label: the label besides those of the model; empty for none.
    """

    text: str
    bounds: tuple[float, ...] = _TIME_MS
    label: str = ""


HISTOGRAMS = {
    "cache_miss_milliseconds": Histogram("Requests that waited for a load"),
    "loadmodel_milliseconds": Histogram("Successful loads"),
    "unloadmodel_milliseconds": Histogram("Successful unloads"),
    "loading_queue_delay_milliseconds": Histogram("Time in the queue of loads"),
    "model_sizing_milliseconds": Histogram("Measuring a loaded model's size"),
    "age_at_eviction_milliseconds": Histogram("Time since the last use of evicted models", _AGE_MS),
    "loaded_model_size_bytes": Histogram("Sizes of loaded models", _MODEL_SIZE),
    "coldstart_milliseconds": Histogram(
        "Successful loads by phase: queue, pull, load; size, which goes on while the model is used already; "
        "and total, from the wish for a copy to its first use",
        label="phase",
    ),
    "model_size_ratio": Histogram(
        "Sizes of models in parts of what they were taken for, by where that came from", _RATIO, "source"
    ),
}

#: Named without ``_total``, as existing dashboards have them.
COUNTERS = {
    "loadmodel_failure": "Failed loads",
    "unloadmodel_failure": "Unloads that were given up",
    "unloadmodel_attempt_failure": "Failed attempts to unload",
    "churn_refused": "Loads refused because they would evict copies in recent use",
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A counter with labels.

    Attributes:
        text: what is counted.
        labels: their names.
        values: of series that are shown before anything was counted, so that their first count is seen as a rise.
    """

    text: str
    labels: tuple[str, ...]
    values: tuple[tuple[str, ...], ...] = ()


def _by_reason(text: str, reasons: type[StrEnum]) -> Labelled:
    return Labelled(text, ("reason",), tuple((reason.value,) for reason in reasons))


COUNTERS_BY = {
    "evictions": _by_reason("Evicted copies", EvictionReason),
    "model_size_misjudged": Labelled("Models whose size was not as estimated", ("source", "estimate")),
    "copies_added": _by_reason("Copies added beside others", GrowthKind),
    "copies_not_added": _by_reason("Times that no further copy could be added", GrowthKind),
    "copies_removed": _by_reason("Copies taken away that the mesh can do without", SurplusKind),
    "copies_moved": _by_reason("Copies moved to another instance", MoveKind),
}


class CounterFamily(Metric):
    """A counter named without ``_total``, as those of KServe ModelMesh are and hence all of this mesh.

    Args:
        name: with its prefix.
        text: what is counted.
        labels: names of the labels.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        # Formats that want the suffix of a counter know such a one as of unknown type.
        super().__init__(name, text, "unknown")
        self._labels = tuple(labels)

    def add(self, values: Iterable[str], count: float) -> None:
        """Adds the series whose labels have these values."""
        self.add_sample(self.name, dict(zip(self._labels, values, strict=True)), count)


def gauges(values: Mapping[str, tuple[str, float]]) -> Iterator[Metric]:
    """Gauges without labels.

    Args:
        values: text and value by name without prefix.
    """
    for name, (text, value) in values.items():
        yield GaugeMetricFamily(PREFIX + name, text, value=value)
