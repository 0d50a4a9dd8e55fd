"""What to look at first."""

from grafana.panels import Limits, Query, figure
from grafana.promql import MESH, series, total
from grafana.rows import Section

#: Codes for which a caller is not to blame.
FAULTS = 'code=~"UNKNOWN|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|INTERNAL|UNAVAILABLE|DATA_LOSS"'

_REQUESTS = "api_request_milliseconds"


def section() -> Section:
    """Whether all is well."""
    requests = f"rate({series(f'{_REQUESTS}_count')}[5m])"
    faults = f"rate({series(f'{_REQUESTS}_count', FAULTS)}[5m])"
    buckets = f"rate({series(f'{_REQUESTS}_bucket')}[5m])"
    return Section(
        "At a glance",
        [
            (
                3,
                figure(
                    "Alerts",
                    [
                        Query(
                            f'count(ALERTS{{alertname=~"Mesh.*",alertstate="firing",{MESH}}}) or vector(0)',
                            "firing",
                        )
                    ],
                    description="Alerts of this mesh that fire now; each says what to do. 0 also where the "
                    "alert rules are not loaded into Prometheus.",
                    limits=Limits(warn=1, bad=3),
                ),
            ),
            (
                3,
                figure(
                    "Instances not ready",
                    [Query(f"count({series('instance_ready')} == 0) or vector(0)", "not ready")],
                    description="Instances that answer and to which clients should not be sent: starting, "
                    "leaving or failing. For minutes after a rollout that is usual; `/ready` of the instance "
                    "tells the reason.",
                    limits=Limits(warn=1, bad=2),
                ),
            ),
            (
                3,
                figure(
                    "Requests",
                    [Query(total(requests), "per second")],
                    description="External requests of the last five minutes, per second.",
                    unit="reqps",
                ),
            ),
            (
                3,
                figure(
                    "Failing",
                    [Query(f"({total(faults)} or vector(0)) / {total(requests)}", "share")],
                    description="Share of external requests of the last five minutes that failed and for which "
                    "the caller is not to blame. See *Failed requests by code* for what they ended with.",
                    unit="percentunit",
                    limits=Limits(warn=0.01, bad=0.05),
                ),
            ),
            (
                3,
                figure(
                    "Latency, p99",
                    [Query(f"histogram_quantile(0.99, {total(buckets, 'le')})", "p99")],
                    description="99 of 100 external requests of the last five minutes took no longer. Waiting "
                    "for loads counts.",
                    unit="ms",
                ),
            ),
            (
                3,
                figure(
                    "Waiting for a copy",
                    [Query(total(series("data_plane_waiting")), "requests")],
                    description="Requests that wait now because their model is loaded nowhere yet.",
                    limits=Limits(warn=50, bad=500),
                ),
            ),
            (
                3,
                figure(
                    "Models that cannot be loaded",
                    [Query(f"max({series('models_with_failure_total', of=MESH)})", "models")],
                    description="Registered models whose last load failed. `mesh status MODEL` tells why.",
                    limits=Limits(warn=1),
                ),
            ),
            (
                3,
                figure(
                    "Registry last heard",
                    [Query(f"max({series('registry_lag_seconds')})", "ago")],
                    description="The longest that an instance has not heard from etcd. A few seconds are "
                    "usual; while it grows, what is loaded is served, and nothing can be loaded or registered.",
                    unit="s",
                    limits=Limits(warn=20, bad=60),
                ),
            ),
        ],
        height=4,
    )
