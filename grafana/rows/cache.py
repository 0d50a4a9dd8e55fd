"""The caches: how long what lies in them is kept, what is evicted, and whether sizes were right."""

from grafana.panels import Limits, Query, graph
from grafana.promql import BY_INSTANCE, by_instance, quantile_by, quantiles, rate, series, total
from grafana.rows import Section


def section() -> Section:
    """Of the chosen instances."""
    misses, requests = (total(rate(f"{name}_milliseconds_count")) for name in ("cache_miss", "api_request"))
    return Section(
        "Cache",
        [
            (
                8,
                graph(
                    "Age of the cache",
                    [Query(total(series("instance_lru_age_seconds"), "$by"), BY_INSTANCE)],
                    description="Time since the last use of the copy that was used longest ago: so long a "
                    "model stays loaded without being asked. Under some minutes while evictions go on, the "
                    "mesh is too small for its models. 0: an empty cache.",
                    unit="s",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Idle time of evicted copies",
                    quantiles("age_at_eviction_milliseconds", shares=("0.1", "0.5")),
                    description="Time since their last use. Buckets begin at 30 s: below, the figure is a "
                    "guess.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Evictions by reason",
                    [Query(total(rate("evictions"), "reason"), "{{reason}}")],
                    description="Copies per second that went for want of room, by what needed it.",
                    unit="ops",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Hits",
                    [Query(f"1 - {misses} / {requests}", "share")],
                    description="Share of requests that found a copy, or one that was ready within 10 ms.",
                    unit="percentunit",
                ),
            ),
            (
                8,
                graph(
                    "Loads refused to spare copies in use",
                    [Query(total(rate("churn_refused"), "$by"), BY_INSTANCE)],
                    description="Per second. Such a load would have evicted what was used within the last "
                    "minutes (`MESH_MIN_CHURN_AGE_MS`). If it goes on, the mesh needs more memory.",
                    unit="ops",
                    limits=Limits(warn=0.01),
                ),
            ),
            (
                8,
                graph(
                    "Models of another size than expected",
                    [
                        Query(
                            total(rate("model_size_misjudged"), "source", "estimate"),
                            "{{source}}, too {{estimate}}",
                        )
                    ],
                    description="Per second, by where the estimate came from. *Too low* is the dangerous kind: "
                    "the model server may run out of memory. Declare the sizes of such models.",
                    unit="ops",
                ),
            ),
            (
                12,
                graph(
                    "Size in parts of the estimate, p95",
                    [quantile_by("0.95", "model_size_ratio", "source")],
                    description="By where the estimate came from; 1 is right, 2 is twice as large as it was "
                    "taken for.",
                    limits=Limits(warn=1.25, bad=2),
                    figures=True,
                ),
            ),
            (
                12,
                graph(
                    "Memory taken beyond what there is",
                    [by_instance("instance_memory_deficit_bytes")],
                    description="After sizes were estimated too low; evictions make up for it, and loads wait "
                    "meanwhile. Anything that stays above 0 needs a look.",
                    unit="bytes",
                    limits=Limits(bad=1),
                ),
            ),
        ],
    )
