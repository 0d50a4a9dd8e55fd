"""Requests: how many, how long, how they end, and which way they go."""

from grafana.panels import Limits, Query, graph
from grafana.promql import BY_INSTANCE, mean, quantile, quantiles, rate, series, total
from grafana.rows import Section
from grafana.rows.glance import FAULTS

_REQUESTS = "api_request_milliseconds"
_CALLS = "invoke_model_milliseconds"


def section() -> Section:
    """External requests, at the instances that took them, unless a panel says otherwise."""
    answered = 'code="OK"'
    besides = (
        f"({total(rate(f'{_REQUESTS}_sum', answered))} - {total(rate(f'{_CALLS}_sum', answered))})"
        f" / {total(rate(f'{_REQUESTS}_count', answered))}"
    )
    return Section(
        "Requests",
        [
            (
                8,
                graph(
                    "Requests by method",
                    [Query(total(rate(f"{_REQUESTS}_count"), "method"), "{{method}}")],
                    description="External requests, at the instance that took them.",
                    unit="reqps",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Failed requests by code",
                    [Query(total(rate(f"{_REQUESTS}_count", 'code!="OK"'), "code"), "{{code}}")],
                    description="NOT_FOUND and INVALID_ARGUMENT are mostly callers' mistakes. "
                    "RESOURCE_EXHAUSTED: no room, or too long a queue. UNAVAILABLE: no instance or model "
                    "server to turn to. DEADLINE_EXCEEDED: the caller waited no longer, often for a load. "
                    "INTERNAL: a load failed; the log names it.",
                    unit="reqps",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Share of failing requests",
                    [
                        Query(
                            f"({total(rate(f'{_REQUESTS}_count', FAULTS), '$by')}"
                            f" or 0 * {total(rate(f'{_REQUESTS}_count'), '$by')})"
                            f" / {total(rate(f'{_REQUESTS}_count'), '$by')}",
                            BY_INSTANCE,
                        )
                    ],
                    description="Requests that failed and for which the caller is not to blame. One instance "
                    "that stands out: look at its log and its model server.",
                    unit="percentunit",
                    limits=Limits(warn=0.01, bad=0.05),
                ),
            ),
            (
                8,
                graph(
                    "Latency of requests",
                    quantiles(_REQUESTS, exemplars=True),
                    description="From the first byte that came to the last that went, waiting for loads "
                    "included.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Latency of model servers",
                    quantiles(_CALLS, exemplars=True),
                    description="Calls of the model servers alone. Where this grows as the latency of requests "
                    "does, the models are slow, and not the mesh.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Mean time outside of model servers",
                    [Query(besides, "of answered requests")],
                    description="Mean latency of answered requests less that of calls of the model servers: "
                    "queues, waiting for loads, ways between instances.",
                    unit="ms",
                ),
            ),
            (
                8,
                graph(
                    "Under way and waiting",
                    [
                        Query(total(series("data_plane_streams")), "under way"),
                        Query(total(series("data_plane_waiting")), "wait for a copy"),
                        Query(total(series("data_plane_queued")), "wait for a slot"),
                    ],
                    description="Requests that wait for a copy need a load first; those that wait for a slot "
                    "have a copy that takes no more at once.",
                ),
            ),
            (
                8,
                graph(
                    "Wait for a slot",
                    quantiles("req_queue_delay_milliseconds"),
                    description="Only of models whose server limits how many requests it takes at once. Where "
                    "it grows, further copies are due: see *Copies added and taken away*.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Share of forwarded requests",
                    [
                        Query(
                            f"{total(rate('data_plane_forwarded'), '$by')}"
                            f" / {total(rate('data_plane_requests'), '$by')}",
                            BY_INSTANCE,
                        )
                    ],
                    description="Requests that went on to another instance, since the copy is there. With N "
                    "instances and a copy of each model, (N-1)/N is usual.",
                    unit="percentunit",
                ),
            ),
            (
                12,
                graph(
                    "Sizes of messages",
                    [
                        Query(mean("request_size_bytes"), "request, mean"),
                        Query(quantile("0.99", "request_size_bytes"), "request, p99"),
                        Query(mean("response_size_bytes"), "response, mean"),
                        Query(quantile("0.99", "response_size_bytes"), "response, p99"),
                    ],
                    description="Of external requests and their successful responses. The largest bucket ends "
                    "at 2 MiB: p99 shows no more than that.",
                    unit="bytes",
                ),
            ),
            (
                12,
                graph(
                    "Requests by instance",
                    [
                        Query(total(rate(f"{_REQUESTS}_count"), "$by"), f"{BY_INSTANCE} taken"),
                        Query(total(rate(f"{_CALLS}_count"), "$by"), f"{BY_INSTANCE} served"),
                    ],
                    description="Taken: external requests that came to this instance. Served: calls of the "
                    "model server beside it, whichever instance took the request.",
                    unit="reqps",
                ),
            ),
        ],
    )
