"""Copies of requests and responses that go to processors: sent, waiting, lost, and what monitors find in them."""

from grafana.panels import Limits, Query, graph
from grafana.promql import quantile_by, rate, series, total
from grafana.rows import Section

_WATCHED = "(modelId, vModelId, side)"
_NAMES = "{{modelId}}{{vModelId}} {{side}}"


def section() -> Section:
    """Nothing is seen here unless processors are configured."""
    return Section(
        "Payloads",
        [
            (
                6,
                graph(
                    "Payloads delivered",
                    [Query(total(rate("payload_delivered"), "processor"), "{{processor}}")],
                    description="Per second, by processor. Requests and responses count one each.",
                    unit="ops",
                    figures=True,
                ),
            ),
            (
                6,
                graph(
                    "Payloads lost",
                    [Query(total(rate("payload_lost"), "processor", "reason"), "{{processor}}: {{reason}}")],
                    description="Per second, by processor and reason. Requests are not affected.",
                    unit="ops",
                    limits=Limits(warn=0.01),
                    figures=True,
                ),
            ),
            (
                6,
                graph(
                    "Payloads that wait",
                    [Query(total(series("payload_queued"), "processor"), "{{processor}}")],
                    description="A queue that stays full loses what comes: its processor is too slow, or away.",
                    figures=True,
                ),
            ),
            (
                6,
                graph(
                    "Time of a delivery, p95",
                    [quantile_by("0.95", "payload_delivery_milliseconds", "processor")],
                    description="Of one attempt to have a processor take a batch.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Drift, largest stability index",
                    [Query(f"max by {_WATCHED} ({series('drift_largest_stability_index')})", _NAMES)],
                    description="Of all features that a monitor watches, in the newest window. Above 0.1 is "
                    "worth a look, above 0.2 the inputs are no longer those of the reference.",
                    limits=Limits(warn=0.1, bad=0.2),
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Drifted features",
                    [Query(f"max by {_WATCHED} ({series('drift_features')})", _NAMES)],
                    description="How many features have drifted in the newest window; "
                    "`modelmesh_drift_stability_index` tells which.",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Outliers",
                    [Query(f"max by {_WATCHED} ({series('outlier_share')})", _NAMES)],
                    description="Share of rows of the newest window that lie beyond the outlier threshold of "
                    "the reference.",
                    unit="percentunit",
                    figures=True,
                ),
            ),
        ],
        open=False,
    )
