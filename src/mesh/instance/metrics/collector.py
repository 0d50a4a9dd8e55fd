"""Everything that a scrape of one instance shows."""

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mesh.dataplane import DataPlane
from mesh.instance.metrics.families import gauges
from mesh.instance.metrics.gauges import ClusterGauges, InstanceGauges
from mesh.instance.metrics.observations import Metrics
from mesh.runtimes import PullProgress


class InstanceCollector(Collector):
    """Everything that a scrape of one instance shows.

    Args:
        gauges: reads the instance's own figures.
        cluster: reads the whole mesh's figures; None while another instance leads, so that each is shown once.
        ready: whether clients should be sent to this instance.
        registry_lag_s: time since the registry last confirmed what is known of it, seconds.
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
        pulls: Callable[[], Mapping[str, PullProgress]],
    ) -> None:
        self._pulls = pulls
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
        yield from self._metrics.collect_registered()
        yield from gauges(self._instance_values())
        yield from gauges(self._data_plane_values())
        if (cluster := self._cluster()) is not None:
            yield from gauges(
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
