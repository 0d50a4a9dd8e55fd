"""The dashboard of one model."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.board import assemble, labels, new
from grafana.panels import Query, graph
from grafana.promql import BY_INSTANCE, MESH, increase, mean, quantile, quantiles, rate, total
from grafana.rows import Section

UID = "modelmesh-model"
#: Where a click on a model leads.
LINK = (
    f"/d/{UID}?${{__url_time_range}}&${{DS_PROMETHEUS:queryparam}}&${{namespace:queryparam}}&${{job:queryparam}}"
    "&${by:queryparam}&var-model=${__value.raw:percentencode}"
)

_MODEL = 'modelId="$model"'
_REQUESTS = "api_request_milliseconds"
_CALLS = "invoke_model_milliseconds"


def dashboard() -> Dashboard:
    """All rows and panels."""
    models = f'modelmesh_api_request_milliseconds_count{{{MESH},modelId!=""}}'
    return assemble(
        new(
            "Mesh: one model",
            UID,
            "What one model gets and does. Needs per-model metrics: `per_model_metrics=true` in `MM_METRICS`.",
        ).with_variable(labels("model", models, "modelId", several=False, everything=False)),
        [_requests(), _copies()],
    )


def _requests() -> Section:
    return Section(
        "Requests",
        [
            (
                8,
                graph(
                    "Requests by code",
                    [Query(total(rate(f"{_REQUESTS}_count", _MODEL), "code"), "{{code}}")],
                    description="External requests of the model.",
                    unit="reqps",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Latency of requests",
                    quantiles(_REQUESTS, _MODEL, exemplars=True),
                    description="Waiting for loads included.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Latency of model servers",
                    quantiles(_CALLS, _MODEL, exemplars=True),
                    description="Calls of the model servers alone.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Requests by vmodel",
                    [Query(total(rate(f"{_REQUESTS}_count", _MODEL), "vModelId"), "{{vModelId}}")],
                    description="By which vmodel they came; without a name, they named the model itself.",
                    unit="reqps",
                ),
            ),
            (
                8,
                graph(
                    "Wait for a slot",
                    quantiles("req_queue_delay_milliseconds", _MODEL),
                    description="Only where the model server limits how many requests the model takes at once.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Sizes of messages",
                    [
                        Query(mean("request_size_bytes", _MODEL), "request, mean"),
                        Query(quantile("0.99", "request_size_bytes", _MODEL), "request, p99"),
                        Query(mean("response_size_bytes", _MODEL), "response, mean"),
                        Query(quantile("0.99", "response_size_bytes", _MODEL), "response, p99"),
                    ],
                    description="Of external requests and their successful responses.",
                    unit="bytes",
                ),
            ),
        ],
    )


def _copies() -> Section:
    return Section(
        "Copies",
        [
            (
                12,
                graph(
                    "Where it is served",
                    [Query(total(rate(f"{_CALLS}_count", _MODEL), "$by"), BY_INSTANCE)],
                    description="Calls of the model server beside each instance: an instance with a line has a "
                    "copy.",
                    unit="reqps",
                    figures=True,
                ),
            ),
            (
                12,
                graph(
                    "Loads, unloads, evictions",
                    [
                        Query(
                            total(increase("loadmodel_milliseconds_count", _MODEL), "$by"),
                            f"{BY_INSTANCE} loads",
                        ),
                        Query(
                            f"-{total(increase('unloadmodel_milliseconds_count', _MODEL), '$by')}",
                            f"{BY_INSTANCE} unloads",
                        ),
                        Query(
                            f"-{total(increase('age_at_eviction_milliseconds_count', _MODEL), '$by')}",
                            f"{BY_INSTANCE} evictions",
                        ),
                    ],
                    description="In the time of each bar.",
                    bars=True,
                    interval="1m",
                ),
            ),
            (
                8,
                graph(
                    "Wait for loads",
                    quantiles("cache_miss_milliseconds", _MODEL, shares=("0.5", "0.95")),
                    description="Requests that found no copy.",
                    unit="ms",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Loading",
                    [
                        Query(
                            mean("loading_queue_delay_milliseconds", _MODEL), "wait before it begins, mean"
                        ),
                        Query(mean("loadmodel_milliseconds", _MODEL), "load, mean"),
                        Query(mean("model_sizing_milliseconds", _MODEL), "measuring, mean"),
                    ],
                    description="What a cold request waits for.",
                    unit="ms",
                ),
            ),
            (
                8,
                graph(
                    "Size",
                    [Query(mean("loaded_model_size_bytes", _MODEL), "loaded, mean")],
                    description="As the model server told it after the load.",
                    unit="bytes",
                ),
            ),
        ],
    )
