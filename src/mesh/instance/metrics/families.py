"""Names, meanings and buckets of the families; those of KServe ModelMesh where it has them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

from prometheus_client.core import GaugeMetricFamily, Metric

from mesh.dataplane import SIZE_BOUNDS_BYTES, TIME_BOUNDS_MS
from mesh.placement.copies import GrowthKind, MoveKind, SurplusKind

#: Of every name here.
PREFIX = "modelmesh_"

#: Upper bounds of ages at eviction, milliseconds: 30 s to 90 days.
AGE_BUCKETS_MS = tuple(
    1_000 * s for s in (30, 300, 900, 3_600, 14_400, 43_200, 86_400, 604_800, 2_592_000, 7_776_000)
)
#: Upper bounds of model sizes, bytes: 256 KiB to 4 GiB.
MODEL_SIZE_BUCKETS = tuple(262_144 * 4**power for power in range(8))

DATA_PLANE_HISTOGRAMS = {
    "api_request_milliseconds": ("External requests, at the instance that took them", TIME_BOUNDS_MS),
    "invoke_model_milliseconds": ("Calls of the model server, at the instance beside it", TIME_BOUNDS_MS),
    "request_size_bytes": ("External requests", SIZE_BOUNDS_BYTES),
    "response_size_bytes": ("Successful responses to external requests", SIZE_BOUNDS_BYTES),
    "req_queue_delay_milliseconds": ("Wait for a slot of a model with limited concurrency", TIME_BOUNDS_MS),
}
LOCAL_HISTOGRAMS = {
    "cache_miss_milliseconds": ("Requests that waited for a load", TIME_BOUNDS_MS),
    "loadmodel_milliseconds": ("Successful loads", TIME_BOUNDS_MS),
    "unloadmodel_milliseconds": ("Successful unloads", TIME_BOUNDS_MS),
    "loading_queue_delay_milliseconds": ("Time in the queue of loads", TIME_BOUNDS_MS),
    "model_sizing_milliseconds": ("Measuring a loaded model's size", TIME_BOUNDS_MS),
    "age_at_eviction_milliseconds": ("Time since the last use of evicted models", AGE_BUCKETS_MS),
    "loaded_model_size_bytes": ("Sizes of loaded models", MODEL_SIZE_BUCKETS),
}
#: Named without ``_total``, as existing dashboards have them.
COUNTERS = {
    "loadmodel_failure": "Failed loads",
    "unloadmodel_failure": "Unloads that were given up",
    "unloadmodel_attempt_failure": "Failed attempts to unload",
    "churn_refused": "Loads refused because they would evict copies in recent use",
}


#: Counters with one label: what they count, the name of the label, and its values. Each value has a series from the
#: start, for what a new series starts with is no increase to Prometheus.
COUNTERS_BY: Mapping[str, tuple[str, str, type[StrEnum]]] = {
    "copies_added": ("Copies added beside others", "reason", GrowthKind),
    "copies_not_added": ("Times that no further copy could be added", "reason", GrowthKind),
    "copies_removed": ("Copies taken away that the mesh can do without", "reason", SurplusKind),
    "copies_moved": ("Copies moved to another instance", "reason", MoveKind),
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
