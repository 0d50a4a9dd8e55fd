"""Everything that one instance shows but for histograms, which the data plane gives as text."""

import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.dataplane import DataPlane
from mesh.instance.metrics.families import PREFIX, CounterFamily, gauges
from mesh.instance.metrics.gauges import (
    ClusterGauges,
    InstanceGauges,
    Values,
    data_plane_counters,
    data_plane_gauges,
)
from mesh.instance.metrics.observations import Metrics
from mesh.instance.settings import InfoMetric
from mesh.runtimes import PullProgress


class InstanceCollector(Collector):
    """Everything that a scrape of one instance shows, but for histograms.

    Args:
        gauges: reads the instance's own figures.
        cluster: reads the whole mesh's figures; None while another instance leads, so that each is shown once.
        ready: whether clients should be sent to this instance.
        registry_lag_s: time since the registry last confirmed what is known of it, seconds.
        pulls: models whose data is on its way here.
        info: a gauge that tells something of the pod.
    """

    def __init__(
        self,
        metrics: Metrics,
        dataplane: DataPlane,
        gauges: Callable[[], InstanceGauges],
        cluster: Callable[[], ClusterGauges | None],
        ready: Callable[[], bool],
        registry_lag_s: Callable[[], float],
        pulls: Callable[[], Mapping[str, PullProgress]],
        info: InfoMetric | None = None,
    ) -> None:
        self.metrics = metrics
        self.dataplane = dataplane
        self._gauges = gauges
        self._cluster = cluster
        self._ready = ready
        self._registry_lag_s = registry_lag_s
        self._pulls = pulls
        self._info = info
        self._build = (version("model-mesh"), platform.python_version())
        # Not the default registry's: an embedding process has its own.
        self._process = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        """Yields each family."""
        yield from self.metrics.collect()
        yield from gauges(self.gauge_values())
        yield from self._instance_state()
        yield from self._data_plane()
        build = GaugeMetricFamily(PREFIX + "build_info", "Always 1", labels=["version", "python"])
        build.add_metric(self._build, 1)
        yield build
        if self._info is not None:
            names, values = zip(*self._info.labels, strict=True)
            info = GaugeMetricFamily(self._info.name, "Info Metrics", labels=names)
            info.add_metric(values, 1)
            yield info
        yield from self._process.collect()

    def gauge_values(self) -> Values:
        """Of the cache, and of the whole mesh unless another instance leads."""
        cluster = self._cluster()
        return {**self._gauges().values(), **({} if cluster is None else cluster.values())}

    def _instance_state(self) -> Iterator[Metric]:
        pulls = self._pulls().values()
        yield from gauges(
            {
                "instance_pulls": ("Models whose data is on its way from storage", len(pulls)),
                "instance_pull_bytes_left": (
                    "Bytes that these pulls have still to bring, as far as that is known",
                    sum(max(0, pull.total_bytes - pull.done_bytes) for pull in pulls),
                ),
                "registry_lag_seconds": (
                    "Time since the registry last confirmed what this instance knows of it; "
                    "+Inf before it ever did",
                    self._registry_lag_s(),
                ),
                "instance_ready": (
                    "1 while clients should be sent to this instance, as /ready says",
                    self._ready(),
                ),
            }
        )

    def _data_plane(self) -> Iterator[Metric]:
        totals = self.dataplane.totals()
        yield from gauges(data_plane_gauges(totals))
        for name, (text, count) in data_plane_counters(totals).items():
            counter = CounterFamily(PREFIX + name, text)
            counter.add((), count)
            yield counter
        upstream = GaugeMetricFamily(
            PREFIX + "data_plane_upstream_connections",
            "Open connections to the model server and to other instances",
            labels=["to"],
        )
        upstream.add_metric(["runtime"], totals.runtime_connections)
        upstream.add_metric(["peer"], totals.peer_connections)
        yield upstream
