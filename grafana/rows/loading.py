"""Loads, unloads, and what cold requests wait for."""

from grafana.panels import Limits, Query, graph
from grafana.promql import (
    BY_INSTANCE,
    by_instance,
    increase,
    mean,
    quantile_by,
    quantiles,
    rate,
    series,
    total,
)
from grafana.rows import Section


def section() -> Section:
    """Of the model servers beside the chosen instances."""
    return Section(
        "Loading and unloading",
        [
            (
                8,
                graph(
                    "Loads and unloads",
                    [
                        Query(total(increase("loadmodel_milliseconds_count")), "loads"),
                        Query(f"-{total(increase('unloadmodel_milliseconds_count'))}", "unloads"),
                        Query(f"-{total(increase('age_at_eviction_milliseconds_count'))}", "evictions"),
                        Query(total(increase("loadmodel_failure")), "failed loads"),
                    ],
                    description="In the time of each bar. An eviction is an unload for want of room.",
                    bars=True,
                    interval="1m",
                ),
            ),
            (
                8,
                graph(
                    "Loads by instance",
                    [Query(total(rate("loadmodel_milliseconds_count"), "$by"), BY_INSTANCE)],
                    description="Successful loads per second.",
                    unit="ops",
                ),
            ),
            (
                8,
                graph(
                    "Failures",
                    [
                        Query(total(rate("loadmodel_failure"), "$by"), f"{BY_INSTANCE} loads"),
                        Query(total(rate("unloadmodel_failure"), "$by"), f"{BY_INSTANCE} unloads given up"),
                        Query(
                            total(rate("unloadmodel_attempt_failure"), "$by"),
                            f"{BY_INSTANCE} attempts to unload",
                        ),
                    ],
                    description="Per second. A load that fails is tried elsewhere. An unload that was given up "
                    "keeps its memory in the model server: restart that.",
                    unit="ops",
                ),
            ),
            (
                8,
                graph(
                    "Loads under way and waiting",
                    [
                        Query(total(series("instance_loads"), "$by"), f"{BY_INSTANCE} under way"),
                        Query(total(series("instance_load_queue"), "$by"), f"{BY_INSTANCE} waiting"),
                    ],
                    description="Model servers load only so many models at once; the others wait. A queue that "
                    "does not shrink while others have none: look at the decisions, `mesh explain`.",
                ),
            ),
            (
                8,
                graph(
                    "Time to load",
                    quantiles("loadmodel_milliseconds"),
                    description="Successful loads, pulling the data included where the mesh does that.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Wait before a load begins",
                    quantiles("loading_queue_delay_milliseconds"),
                    description="Model servers load only so many models at once. Where this exceeds the time "
                    "to load, there are too few instances for the rate of cold requests.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Measuring and unloading",
                    [
                        Query(mean("model_sizing_milliseconds"), "measuring, mean"),
                        Query(mean("unloadmodel_milliseconds"), "unloading, mean"),
                    ],
                    description="A slow unload holds up the load that needs its room.",
                    unit="ms",
                ),
            ),
            (
                8,
                graph(
                    "Sizes of loaded models",
                    quantiles("loaded_model_size_bytes", shares=("0.5", "0.95")),
                    description="As the model server told them after the load.",
                    unit="bytes",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Pulls under way",
                    [by_instance("instance_pulls")],
                    description="Models whose data is on its way from storage.",
                ),
            ),
            (
                12,
                graph(
                    "Bytes that pulls have to bring",
                    [by_instance("instance_pull_bytes_left")],
                    description="As far as it is known. A line that does not fall: storage is slow or away.",
                    unit="bytes",
                ),
            ),
            (
                12,
                graph(
                    "Loaded models that have changed in storage",
                    [by_instance("instance_changed_models")],
                    description="Their data in storage is no longer what was loaded. Nothing is loaded anew "
                    "for it: register new data as a model of its own, and move a vmodel to it. Needs "
                    "`MESH_SOURCE_CHECK_INTERVAL_S`.",
                    limits=Limits(warn=1),
                ),
            ),
        ],
    )


def cold_starts() -> Section:
    """Requests that found no copy."""
    misses, requests = (total(rate(f"{name}_milliseconds_count")) for name in ("cache_miss", "api_request"))
    return Section(
        "Cold starts",
        [
            (
                8,
                graph(
                    "Share of requests that waited for a load",
                    [Query(f"{misses} / {requests}", "waited")],
                    description="For longer than 10 ms.",
                    unit="percentunit",
                ),
            ),
            (
                8,
                graph(
                    "Wait of cold requests",
                    quantiles("cache_miss_milliseconds"),
                    description="From the request to the copy that could serve it.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Cold starts by phase, p95",
                    [quantile_by("0.95", "coldstart_milliseconds", "phase")],
                    description="Queue: until the load begins. Pull: until the data is here. Load: until the "
                    "model server has it. Size: measuring, while requests are served already. Total: from the "
                    "wish for a copy to its first use.",
                    unit="ms",
                    figures=True,
                ),
            ),
        ],
    )
