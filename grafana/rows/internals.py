"""The registry, the data plane and the instances themselves."""

from grafana.panels import Limits, Query, graph
from grafana.promql import BY_INSTANCE, CHOSEN, by_instance, of_leader, rate, series, total
from grafana.rows import Section


def section() -> Section:
    """What holds the mesh together."""
    return Section(
        "Registry, data plane, vmodels",
        [
            (
                8,
                graph(
                    "Registry last heard",
                    [by_instance("registry_lag_seconds")],
                    description="Time since etcd last confirmed what the instance knows of it. All instances "
                    "at once: etcd. One alone: its way there.",
                    unit="s",
                    limits=Limits(warn=20, bad=60),
                ),
            ),
            (
                8,
                graph(
                    "Ready instances",
                    [by_instance("instance_ready")],
                    description="1 while clients should be sent to the instance.",
                ),
            ),
            (
                8,
                graph(
                    "Client connections",
                    [by_instance("data_plane_connections")],
                    description="Open connections. gRPC keeps few and long ones: where one instance has them "
                    "all, clients do not spread their requests, and it forwards for the others.",
                ),
            ),
            (
                8,
                graph(
                    "Connections to model servers and instances",
                    [
                        Query(
                            total(series("data_plane_upstream_connections"), "to", "$by"),
                            f"{BY_INSTANCE} to {{{{to}}}}",
                        )
                    ],
                    description="Open connections, to the model server beside the instance (runtime) and to "
                    "other instances (peer).",
                ),
            ),
            (
                8,
                graph(
                    "CPU of instances",
                    [
                        Query(
                            f"sum by ($by) (rate(process_cpu_seconds_total{{{CHOSEN}}}[$__rate_interval]))",
                            BY_INSTANCE,
                        )
                    ],
                    description="Cores that the mesh takes, model servers not counted. The data plane has a "
                    "thread for each core that it may use; Python is held to one.",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Memory of instances",
                    [Query(total(f"process_resident_memory_bytes{{{CHOSEN}}}", "$by"), BY_INSTANCE)],
                    description="Resident memory of the mesh, model servers not counted.",
                    unit="bytes",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Requests sent again",
                    [Query(total(rate("data_plane_replayed"), "$by"), BY_INSTANCE)],
                    description="Per second, to another copy after a first one failed. Usual while instances "
                    "leave.",
                    unit="reqps",
                ),
            ),
            (
                8,
                graph(
                    "Bytes kept to send requests again",
                    [by_instance("data_plane_retained_bytes")],
                    description="Bodies of requests under way. Beyond the bound, a request is not sent again.",
                    unit="bytes",
                ),
            ),
            (
                8,
                graph(
                    "Models with a route",
                    [by_instance("data_plane_routes")],
                    description="Models that an instance can send requests of without asking where their "
                    "copies are.",
                ),
            ),
            (
                8,
                graph(
                    "Vmodels",
                    [
                        of_leader("vmodels_managed_total", "all"),
                        of_leader("vmodels_in_transition_total", "target is being made ready"),
                        of_leader("vmodels_with_failure_total", "target could not be loaded"),
                    ],
                    description="`mesh vmodels` tells which.",
                ),
            ),
            (
                8,
                graph(
                    "Mirrored requests",
                    [
                        by_instance("data_plane_shadows"),
                    ],
                    description="Requests to vmodels' shadows that are not answered yet.",
                ),
            ),
            (
                8,
                graph(
                    "Spans of traces",
                    [
                        Query(total(rate("trace_spans_sent")), "sent"),
                        Query(total(rate("trace_spans_lost"), "reason"), "lost: {{reason}}"),
                    ],
                    description="Per second, where requests are traced. Lost spans: the collector is away or "
                    "too slow; requests are not affected.",
                    unit="ops",
                ),
            ),
        ],
        open=False,
    )
