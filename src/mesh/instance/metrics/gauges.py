"""What is read of an instance and of the mesh at each scrape."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from mesh.dataplane import Totals

#: Texts and values by name without prefix.
Values = Mapping[str, tuple[str, float]]


@dataclass(frozen=True, slots=True)
class InstanceGauges:
    """What an instance tells of its cache.

    Attributes:
        oldest_used_ms: epoch milliseconds of the oldest entry's last use; None where the cache is empty.
        capacity_bytes: without the unload buffer.
        used_bytes: without the unload buffer.
        models: cache entries.
        deficit_bytes: taken beyond what the model server has, since models turned out larger than estimated.
        loads_running: loads that the model server is at.
        loads_waiting: loads that were asked for and have not begun.
    """

    oldest_used_ms: int | None
    capacity_bytes: int
    used_bytes: int
    models: int
    deficit_bytes: int = 0
    loads_running: int = 0
    loads_waiting: int = 0

    def values(self) -> Values:
        """For showing."""
        age_s = 0.0 if self.oldest_used_ms is None else max(0.0, time.time() - self.oldest_used_ms / 1_000)
        # What an empty cache shows is the largest value of a 64-bit clock, as dashboards expect.
        oldest_s = (2**63 - 1) // 1_000 if self.oldest_used_ms is None else self.oldest_used_ms / 1_000
        return {
            "instance_lru_seconds": ("Last use of the oldest entry, epoch seconds", oldest_s),
            "instance_lru_age_seconds": ("Time since the last use of the oldest entry", age_s),
            "instance_capacity_bytes": ("Memory for models", self.capacity_bytes),
            "instance_used_bytes": ("Memory taken by models", self.used_bytes),
            "instance_used_bps": (
                "Memory taken by models, in parts of 10,000",
                10_000 * self.used_bytes // self.capacity_bytes if self.capacity_bytes else 0,
            ),
            "instance_models_total": ("Models in the cache", self.models),
            "instance_memory_deficit_bytes": (
                "Memory taken by models beyond what the model server has, after sizes were estimated too low",
                self.deficit_bytes,
            ),
            "instance_loads": ("Loads that the model server is at", self.loads_running),
            "instance_load_queue": ("Loads that were asked for and have not begun", self.loads_waiting),
        }


@dataclass(frozen=True, slots=True)
class ClusterGauges:
    """What the leader tells of the whole mesh."""

    managed: int
    loaded: int
    failed: int
    vmodels: int
    vmodels_moving: int
    vmodels_failed: int

    def values(self) -> Values:
        """For showing."""
        return {
            "models_managed_total": ("Registered models", self.managed),
            "models_loaded_total": ("Models with a copy", self.loaded),
            "models_with_failure_total": ("Models with a failed load", self.failed),
            "vmodels_managed_total": ("Vmodels", self.vmodels),
            "vmodels_in_transition_total": ("Vmodels whose target is being made ready", self.vmodels_moving),
            "vmodels_with_failure_total": (
                "Vmodels whose target could not be loaded",
                self.vmodels_failed,
            ),
        }


def data_plane_gauges(now: Totals) -> Values:
    """What the data plane has under way."""
    return {
        "data_plane_connections": ("Open connections of clients and other instances", now.connections),
        "data_plane_streams": ("Requests under way", now.streams),
        "data_plane_waiting": ("Requests that wait for a copy", now.waiting),
        "data_plane_queued": ("Requests that wait for a slot of their model", now.queued),
        "data_plane_retained_bytes": ("Bytes kept to send requests again", now.retained_bytes),
        "data_plane_routes": ("Models with a route", now.routes),
        "data_plane_shadows": ("Mirrored requests that are not answered yet", now.shadows),
        "data_plane_shadow_bytes": ("Bytes of messages kept to compare answers", now.shadow_bytes),
        "model_series": ("Series of requests by model; at most MESH_METRICS_MAX_SERIES", now.model_series),
    }


def data_plane_counters(now: Totals) -> Values:
    """What the data plane counted since its start."""
    return {
        "data_plane_accepted": ("Connections taken from clients and other instances", now.accepted),
        "data_plane_requests": (
            "Requests taken, those of other instances and management included",
            now.requests,
        ),
        "data_plane_forwarded": ("Requests sent to another instance", now.forwarded),
        "data_plane_replayed": ("Requests sent again", now.replayed),
        "model_series_beyond": (
            "Observations of models without a series of their own, because of MESH_METRICS_MAX_SERIES: they are "
            "shown with an empty modelId",
            now.beyond_series,
        ),
    }
