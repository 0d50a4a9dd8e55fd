"""Prometheus metrics: names, labels and buckets are those of KServe ModelMesh.

Histograms of requests come from the data plane and are read in one batch per scrape; what happens around loads is
counted here.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.dataplane import SIZE_BOUNDS_BYTES, TIME_BOUNDS_MS, DataPlane, HistogramSample
from mesh.instance.http import Environ, HttpEndpoint, WsgiApp
from mesh.runtimes import PullProgress

PREFIX = "modelmesh_"

#: Upper bounds of ages at eviction, milliseconds: 30 s to 90 days.
AGE_BUCKETS_MS = tuple(
    1_000 * s for s in (30, 300, 900, 3_600, 14_400, 43_200, 86_400, 604_800, 2_592_000, 7_776_000)
)
#: Upper bounds of model sizes, bytes: 256 KiB to 4 GiB.
MODEL_SIZE_BUCKETS = tuple(262_144 * 4**power for power in range(8))

_DATA_PLANE_HISTOGRAMS = {
    "api_request_milliseconds": ("External requests, at the instance that took them", TIME_BOUNDS_MS),
    "invoke_model_milliseconds": ("Calls of the model server, at the instance beside it", TIME_BOUNDS_MS),
    "request_size_bytes": ("External requests", SIZE_BOUNDS_BYTES),
    "response_size_bytes": ("Successful responses to external requests", SIZE_BOUNDS_BYTES),
    "req_queue_delay_milliseconds": ("Wait for a slot of a model with limited concurrency", TIME_BOUNDS_MS),
}
_LOCAL_HISTOGRAMS = {
    "cache_miss_milliseconds": ("Requests that waited for a load", TIME_BOUNDS_MS),
    "loadmodel_milliseconds": ("Successful loads", TIME_BOUNDS_MS),
    "unloadmodel_milliseconds": ("Successful unloads", TIME_BOUNDS_MS),
    "loading_queue_delay_milliseconds": ("Time in the queue of loads", TIME_BOUNDS_MS),
    "model_sizing_milliseconds": ("Measuring a loaded model's size", TIME_BOUNDS_MS),
    "age_at_eviction_milliseconds": ("Time since the last use of evicted models", AGE_BUCKETS_MS),
    "loaded_model_size_bytes": ("Sizes of loaded models", MODEL_SIZE_BUCKETS),
}
#: Named without ``_total``, as existing dashboards have them.
_COUNTERS = {
    "loadmodel_failure": "Failed loads",
    "unloadmodel_failure": "Unloads that were given up",
    "unloadmodel_attempt_failure": "Failed attempts to unload",
    "churn_refused": "Loads refused because they would evict copies in recent use",
}


#: Counters with one label: what they count, and the name of the label.
_COUNTERS_BY = {
    "copies_added": ("Copies added beside others", "reason"),
    "copies_not_added": ("Times that no further copy could be added", "reason"),
    "copies_removed": ("Copies taken away that the mesh can do without", "reason"),
    "copies_moved": ("Copies moved to another instance", "reason"),
}


@dataclass(frozen=True, slots=True)
class InstanceGauges:
    """What an instance tells of its cache.

    Attributes:
        oldest_used_ms: epoch milliseconds of the oldest entry's last use; None where the cache is empty.
        capacity_bytes: without the unload buffer.
        used_bytes: without the unload buffer.
        models: cache entries.
        deficit_bytes: taken beyond what the model server has, since models turned out larger than estimated.
    """

    oldest_used_ms: int | None
    capacity_bytes: int
    used_bytes: int
    models: int
    deficit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ClusterGauges:
    """What the leader tells of the whole mesh."""

    managed: int
    loaded: int
    failed: int
    vmodels: int
    vmodels_moving: int
    vmodels_failed: int


class _Histogram:
    """One family of observations made in Python, by model where per-model series are wanted.

    Series are bounded in number and expire, since models come and go.
    """

    def __init__(self, bounds: tuple[float, ...], max_series: int, idle_s: float) -> None:
        self._bounds = bounds
        self._max_series = max_series
        self._idle_s = idle_s
        self._series: OrderedDict[str, _Series] = OrderedDict()

    def observe(self, value: float, model_id: str, now_s: float) -> None:
        series = self._series.get(model_id)
        if series is None:
            if len(self._series) >= self._max_series:
                self._series.popitem(last=False)
            series = self._series[model_id] = _Series([0] * (len(self._bounds) + 1))
        series.add(value, self._bounds, now_s)
        self._series.move_to_end(model_id)

    def collect(self, now_s: float) -> Iterator[tuple[str, list[int], float]]:
        for model_id, series in list(self._series.items()):
            if model_id and now_s - series.touched_s > self._idle_s:
                del self._series[model_id]
            else:
                yield model_id, series.buckets, series.sum


class _Series:
    __slots__ = ("buckets", "sum", "touched_s")

    def __init__(self, buckets: list[int]) -> None:
        self.buckets = buckets
        self.sum = 0.0
        self.touched_s = 0.0

    def add(self, value: float, bounds: tuple[float, ...], now_s: float) -> None:
        index = next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))
        self.buckets[index] += 1
        self.sum += value
        self.touched_s = now_s


class Metrics:
    """The metrics of one instance.

    Args:
        per_model: label histograms with the model.
        full_method_names: label methods with their package and service.
        max_series: series of one local histogram, at most.
        idle_s: after which a model's series is dropped, seconds.
    """

    def __init__(
        self,
        *,
        per_model: bool = False,
        full_method_names: bool = False,
        max_series: int = 10_000,
        idle_s: float = 3_600,
    ) -> None:
        self.per_model = per_model
        self.full_method_names = full_method_names
        self._local = {
            name: _Histogram(tuple(bounds), max_series, idle_s)
            for name, (_, bounds) in _LOCAL_HISTOGRAMS.items()
        }
        self._counters = dict.fromkeys(_COUNTERS, 0)
        self._misjudged: Counter[tuple[str, str]] = Counter()
        self._counters_by = {name: Counter[str]() for name in _COUNTERS_BY}
        self._shown: dict[str, tuple[str, Callable[[], float | None]]] = {}

    def observe(self, name: str, value: float, model_id: str) -> None:
        """Adds to the local histogram ``name`` (without prefix), in the unit that the name says."""
        self._local[name].observe(value, model_id if self.per_model else "", time.monotonic())

    def count(self, name: str) -> None:
        """Adds one to the counter ``name`` (without prefix)."""
        self._counters[name] += 1

    def count_misjudged_size(self, source: str, *, low: bool) -> None:
        """Adds one model whose size was not what it was taken for.

        Args:
            source: of the estimate: declared, learned, predicted or default.
            low: the model takes more.
        """
        self._misjudged[source, "low" if low else "high"] += 1

    def count_by(self, name: str, label: str, number: int = 1) -> None:
        """Adds to the series of the counter ``name`` (without prefix) that has this label."""
        self._counters_by[name][label] += number

    def show(self, name: str, text: str, read: Callable[[], float | None]) -> None:
        """Has a gauge shown, read at each scrape; left out where it reads None."""
        self._shown[name] = (text, read)

    def collect_local(self) -> Iterator[Metric]:
        """The families counted here."""
        now_s = time.monotonic()
        for name, (text, bounds) in _LOCAL_HISTOGRAMS.items():
            labels = ["modelId", "vModelId"] if self.per_model else []
            family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
            for model_id, buckets, total in self._local[name].collect(now_s):
                family.add_metric(
                    [model_id, ""] if self.per_model else [], _cumulative(buckets, bounds), total
                )
            yield family
        for name, text in _COUNTERS.items():
            counter = Metric(PREFIX + name, text, "unknown")
            counter.add_sample(PREFIX + name, {}, self._counters[name])
            yield counter
        name = PREFIX + "model_size_misjudged"
        misjudged = Metric(name, "Models whose size was not as estimated", "unknown")
        for (source, estimate), count in self._misjudged.items():
            misjudged.add_sample(name, {"source": source, "estimate": estimate}, count)
        yield misjudged
        for name, (text, label) in _COUNTERS_BY.items():
            counter = Metric(PREFIX + name, text, "unknown")
            # A copy: counting goes on meanwhile, in another thread.
            for value, number in dict(self._counters_by[name]).items():
                counter.add_sample(PREFIX + name, {label: value}, number)
            yield counter
        values = {name: (text, read()) for name, (text, read) in self._shown.items()}
        yield from _gauges(
            {name: (text, value) for name, (text, value) in values.items() if value is not None}
        )

    def collect_data_plane(self, samples: Iterable[HistogramSample]) -> Iterator[Metric]:
        """The families that the data plane counts."""
        labels = ["method", "code", *(("modelId", "vModelId") if self.per_model else ())]
        families = {
            name: HistogramMetricFamily(PREFIX + name, text, labels=labels)
            for name, (text, _) in _DATA_PLANE_HISTOGRAMS.items()
        }
        for sample in samples:
            method = sample.method if self.full_method_names else sample.method.rpartition("/")[2]
            values = [method, sample.code, *((sample.model_id, sample.vmodel_id) if self.per_model else ())]
            _, bounds = _DATA_PLANE_HISTOGRAMS[sample.name]
            families[sample.name].add_metric(values, _cumulative(sample.buckets, bounds), sample.sum)
        yield from families.values()


def _cumulative(buckets: list[int], bounds: Iterable[float]) -> list[tuple[str, float]]:
    total = 0
    result: list[tuple[str, float]] = []
    for count, bound in zip(
        buckets, (*(f"{b:g}" if b < 1 else str(float(b)) for b in bounds), "+Inf"), strict=True
    ):
        total += count
        result.append((bound, total))
    return result


class InstanceCollector(Collector):
    """Everything that a scrape of one instance shows.

    Args:
        gauges: reads the instance's own figures.
        cluster: reads the whole mesh's figures; None while another instance leads, so that each is shown once.
        ready: whether clients should be sent to this instance.
        registry_lag_s: time since the registry last confirmed what is known of it, seconds.
        shadows: what was found of vmodels' shadows.
        pulls: models whose data is on its way here.
    """

    def __init__(
        self,
        metrics: Metrics,
        dataplane: DataPlane,
        gauges: Callable[[], InstanceGauges],
        cluster: Callable[[], ClusterGauges | None],
        ready: Callable[[], bool],
        registry_lag_s: Callable[[], float],
        shadows: Callable[[], Iterator[Metric]],
        pulls: Callable[[], Mapping[str, PullProgress]],
    ) -> None:
        self._pulls = pulls
        self._shadows = shadows
        self._ready = ready
        self._registry_lag_s = registry_lag_s
        self._metrics = metrics
        self._dataplane = dataplane
        self._gauges = gauges
        self._cluster = cluster

    def collect(self) -> Iterator[Metric]:
        """Yields each family; takes no lock that a request could wait for longer than a copy of the counters."""
        yield from self._metrics.collect_data_plane(self._dataplane.take_histograms())
        yield from self._metrics.collect_local()
        yield from self._shadows()
        yield from _gauges(self._instance_values())
        yield from _gauges(self._data_plane_values())
        if (cluster := self._cluster()) is not None:
            yield from _gauges(
                {
                    "models_managed_total": ("Registered models", cluster.managed),
                    "models_loaded_total": ("Models with a copy", cluster.loaded),
                    "models_with_failure_total": ("Models with a failed load", cluster.failed),
                    "vmodels_managed_total": ("Vmodels", cluster.vmodels),
                    "vmodels_in_transition_total": (
                        "Vmodels whose target is being made ready",
                        cluster.vmodels_moving,
                    ),
                    "vmodels_with_failure_total": (
                        "Vmodels whose target could not be loaded",
                        cluster.vmodels_failed,
                    ),
                }
            )

    def _instance_values(self) -> Mapping[str, tuple[str, float]]:
        now = self._gauges()
        pulls = self._pulls().values()
        age_s = 0.0 if now.oldest_used_ms is None else max(0.0, time.time() - now.oldest_used_ms / 1_000)
        # What an empty cache shows is the largest value of a 64-bit clock, as dashboards expect.
        oldest_s = (2**63 - 1) / 1_000 if now.oldest_used_ms is None else now.oldest_used_ms / 1_000
        return {
            "instance_lru_seconds": ("Last use of the oldest entry, epoch seconds", oldest_s),
            "instance_lru_age_seconds": ("Time since the last use of the oldest entry", age_s),
            "instance_capacity_bytes": ("Memory for models", now.capacity_bytes),
            "instance_used_bytes": ("Memory taken by models", now.used_bytes),
            "instance_used_bps": (
                "Memory taken by models, in parts of 10,000",
                10_000 * now.used_bytes // now.capacity_bytes if now.capacity_bytes else 0,
            ),
            "instance_models_total": ("Models in the cache", now.models),
            "instance_memory_deficit_bytes": (
                "Memory taken by models beyond what the model server has, after sizes were estimated too low",
                now.deficit_bytes,
            ),
            "instance_pulls": ("Models whose data is on its way from storage", len(pulls)),
            "instance_pull_bytes_left": (
                "Bytes that these pulls have still to bring, as far as that is known",
                sum(max(0, pull.total_bytes - pull.done_bytes) for pull in pulls),
            ),
            "registry_lag_seconds": (
                "Time since the registry last confirmed what this instance knows of it; +Inf before it ever did",
                self._registry_lag_s(),
            ),
            "instance_ready": (
                "1 while clients should be sent to this instance, as /ready says",
                self._ready(),
            ),
        }

    def _data_plane_values(self) -> Mapping[str, tuple[str, float]]:
        now = self._dataplane.totals()
        return {
            "data_plane_connections": ("Open client connections", now.connections),
            "data_plane_streams": ("Requests under way", now.streams),
            "data_plane_waiting": ("Requests that wait for a copy", now.waiting),
            "data_plane_queued": ("Requests that wait for a slot of their model", now.queued),
            "data_plane_retained_bytes": ("Bytes kept to send requests again", now.retained_bytes),
            "data_plane_requests": ("Requests taken since the start", now.requests),
            "data_plane_forwarded": ("Requests sent to another instance since the start", now.forwarded),
            "data_plane_replayed": ("Requests sent again since the start", now.replayed),
            "data_plane_routes": ("Models with a route", now.routes),
            "data_plane_shadows": ("Mirrored requests that are not answered yet", now.shadows),
            "data_plane_shadow_bytes": ("Bytes of messages kept to compare answers", now.shadow_bytes),
        }


def _gauges(values: Mapping[str, tuple[str, float]]) -> Iterator[Metric]:
    for name, (text, value) in values.items():
        yield GaugeMetricFamily(PREFIX + name, text, value=value)


def serve_metrics(collector: InstanceCollector, host: str, port: int) -> HttpEndpoint:
    """Serves ``/metrics`` and ``/`` for Prometheus.

    Raises:
        OSError: the port cannot be bound.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    metrics: WsgiApp = make_wsgi_app(registry)

    def serve(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] in {"/", "/metrics"}:
            return metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"known paths: /metrics, /\n"]

    return HttpEndpoint(serve, host, port)
