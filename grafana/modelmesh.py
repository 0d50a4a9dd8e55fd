"""The dashboard that users of KServe ModelMesh know: its rows, and its panels with their ids, titles and units.

Where a query differs from the one there, since that showed nothing or something else than it said, `grafana/README.md`
says so.
"""

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import CustomVariable, Dashboard, Row, TextBoxVariable
from grafana_foundation_sdk.builders.timeseries import Panel

from grafana.panels import Query, datasource_variable, graph, option

#: Matchers of all pods of a mesh, and of those of the chosen runtimes.
_SERVICE = 'namespace="$namespace",pod=~"$servicename-.*"'
_RUNTIMES = 'namespace="$namespace",pod=~"$servicename-$runtime-.*"'
_MESH_CONTAINER = f'{_SERVICE},container="$mm_container"'
_MODEL_SERVERS = f'{_SERVICE},container!="$mm_container",container!=""'

#: Recording rules of kube-prometheus: what running pods have reserved.
_CPU_RESERVED = "cluster:namespace:pod_cpu:active:kube_pod_container_resource_requests"
_MEMORY_RESERVED = "cluster:namespace:pod_memory:active:kube_pod_container_resource_requests"

_WIDTH, _HEIGHT = 8, 8


def dashboard() -> Dashboard:
    """All rows and panels."""
    board = (
        Dashboard("ModelMesh Dashboard")
        .uid("vMm_rt-7z-new")
        .description("The dashboard of KServe ModelMesh; this mesh has the same metrics.")
        .tags(["modelmesh"])
        .editable()
        .time("now-2d", "now")
        .variables(
            [
                datasource_variable(),
                TextBoxVariable("namespace").label("namespace").default_value("my-namespace"),
                TextBoxVariable("servicename").label("service name").default_value("my-service-name"),
                CustomVariable("mm_container")
                .label("mesh container")
                .values("mm,mm-runtime,modelmesh-runtime")
                .current(option("mm")),
                CustomVariable("runtime")
                .label("runtime")
                .values("mlserver,triton,ovms,torchserve")
                .multi(multi=True)
                .current(option("mlserver", "triton", "ovms", "torchserve")),
            ]
        )
    )
    # Rows have no ids there; these are free.
    for row_id, title, panels in (
        (201, "Global Metrics", _global()),
        (202, "Deployment Metrics", _deployments()),
    ):
        board = board.with_row(Row(title).id(row_id))
        for panel in panels:
            board = board.with_panel(panel)
    containers = Row("Container Resource Utilization").id(203)
    for panel in _containers():
        containers = containers.with_panel(panel)
    return board.with_row(containers)


def _panel(
    panel_id: int, title: str, unit: str, *queries: Query, bars: bool = False, interval: str = ""
) -> Panel:
    return (
        graph(title, queries, unit=unit, bars=bars, interval=interval)
        .id(panel_id)
        .span(_WIDTH)
        .height(_HEIGHT)
    )


def _global() -> Sequence[Panel]:
    return [
        _panel(
            82,
            "Global LRU age",
            "s",
            Query(f"max(modelmesh_instance_lru_age_seconds{{{_SERVICE}}})", "LRU Age"),
            Query(
                f"max({_average('age_at_eviction_milliseconds', _SERVICE)})/1000",
                "Age at Eviction",
                points=True,
            ),
        ),
        _panel(
            83,
            "Cluster capacity and utilization",
            "deckbytes",
            Query(f"sum(modelmesh_instance_used_bytes{{{_SERVICE}}}/1000)", "total usage"),
            Query(f"sum(modelmesh_instance_capacity_bytes{{{_SERVICE}}}/1000)", "total capacity"),
        ),
        _panel(
            73,
            "Number of Pods",
            "",
            Query(f"count(container_memory_usage_bytes{{{_MESH_CONTAINER}}})", "Count"),
        ),
        _panel(
            84,
            "Model Counts",
            "locale",
            Query(f"max(modelmesh_models_managed_total{{{_SERVICE}}})", "Managed"),
            Query(f"max(modelmesh_models_loaded_total{{{_SERVICE}}})", "Loaded"),
            Query(f"max(modelmesh_models_with_failure_total{{{_SERVICE}}})", "Failed"),
        ),
        _panel(71, "Model Counts per Pod", "", _by_pod(f"modelmesh_instance_models_total{{{_SERVICE}}}")),
        _panel(
            86,
            "Inference API Request Rate",
            "short",
            Query(f"sum({_rate('api_request_milliseconds_count', _SERVICE)})", "External API"),
            Query(f"sum({_rate('invoke_model_milliseconds_count', _SERVICE)})", "Internal API"),
        ),
        _panel(
            87,
            "Average Inference Request and Response Sizes",
            "decbytes",
            Query(_overall_average("request_size_bytes"), "Request Size"),
            Query(_overall_average("response_size_bytes"), "Response Size"),
        ),
        _panel(
            62,
            "External Inference API Request Rate Per Pod",
            "short",
            _by_pod(f"sum by (pod)({_rate('api_request_milliseconds_count', _SERVICE)})"),
        ),
        _panel(
            57,
            "External Inference API Response Times by Pod (excluding errors)",
            "ms",
            _by_pod(_average_by_pod("api_request_milliseconds", f'{_SERVICE},code="OK"')),
        ),
        _panel(
            63,
            "Internal Inference API Requests Rate Per Pod",
            "short",
            _by_pod(f"sum by (pod)({_rate('invoke_model_milliseconds_count', _SERVICE)})"),
        ),
        _panel(
            58,
            "Internal Inference API Response Time By Pod (excluding errors)",
            "ms",
            _by_pod(_average_by_pod("invoke_model_milliseconds", f'{_SERVICE},code="OK"')),
        ),
        _panel(
            59,
            "Inference API Queue Delay Time By Pod",
            "ms",
            _by_pod(_average_by_pod("req_queue_delay_milliseconds", _SERVICE, "5m")),
        ),
        _panel(
            8,
            "Cache Misses (per 10min)",
            "",
            Query(f"sum({_increase('cache_miss_milliseconds_count', _SERVICE)})", "Cache Misses"),
            bars=True,
            interval="10m",
        ),
        _panel(
            74,
            "Cache Miss Rate",
            "percentunit",
            Query(
                f"sum({_increase('cache_miss_milliseconds_count', _SERVICE)})"
                f"/sum({_increase('api_request_milliseconds_count', _SERVICE)})",
                "Cache Miss Rate",
            ),
            interval="20m",
        ),
        _panel(
            46,
            "Cache Miss Delay (average)",
            "ms",
            Query(_overall_average("cache_miss_milliseconds", "5m"), "Cache Miss Delay"),
        ),
        _panel(
            88,
            "Model Loads/Unloads (per 5min)",
            "",
            Query(f"sum({_increase('loadmodel_milliseconds_count', _SERVICE)})", "Model Loads"),
            Query(f"-sum({_increase('unloadmodel_milliseconds_count', _SERVICE)})", "Model Unloads"),
            Query(f"-sum({_increase('age_at_eviction_milliseconds_count', _SERVICE)})", "Model Evictions"),
            Query(f"sum({_increase('loadmodel_failure', _SERVICE)})", "Load Failures"),
            bars=True,
            interval="5m",
        ).axis_soft_max(5),
        _panel(
            89,
            "Loaded Model Sizes",
            "decbytes",
            Query(_overall_average("loaded_model_size_bytes"), "Model Size"),
        ),
        _panel(
            90,
            "Model Loading Times",
            "ms",
            Query(_overall_average("loadmodel_milliseconds"), "Loading Time"),
            Query(_overall_average("model_sizing_milliseconds"), "Sizing Time"),
        ),
    ]


def _deployments() -> Sequence[Panel]:
    return [
        _panel(
            16,
            "Cluster capacity and utilization",
            "deckbytes",
            _by_deployment(f"sum by (pod)(modelmesh_instance_used_bytes{{{_RUNTIMES}}}/1000)", " usage"),
            _by_deployment(
                f"sum by (pod)(modelmesh_instance_capacity_bytes{{{_RUNTIMES}}}/1000)", " capacity"
            ),
        ),
        _panel(
            45,
            "Model Counts",
            "locale",
            _by_deployment(
                f"sum by (pod)(modelmesh_models_with_failure_total{{{_RUNTIMES}}})", "-failed models"
            ),
            _by_deployment(f"sum by (pod)(modelmesh_instance_models_total{{{_RUNTIMES}}})", "-loaded models"),
        ),
        _panel(
            91,
            "Number of Pods",
            "",
            _by_deployment(
                f'count by (pod)(container_memory_usage_bytes{{{_RUNTIMES},container="$mm_container"}})'
            ),
        ),
        _panel(
            92,
            "Inference API Request Rate",
            "short",
            _by_deployment(
                f"sum by (pod)({_rate('api_request_milliseconds_count', _RUNTIMES)})", " external requests"
            ),
            _by_deployment(
                f"sum by (pod)({_rate('invoke_model_milliseconds_count', _RUNTIMES)})", " internal requests"
            ),
        ),
        _panel(
            65,
            "Average Inference Request and Response Sizes",
            "decbytes",
            _average_by_deployment("request_size_bytes", " request size"),
            _average_by_deployment("response_size_bytes", " response size"),
        ),
        _panel(
            22,
            "Model Loads/Unloads (per 5min)",
            "",
            _by_deployment(f"sum by (pod)({_increase('loadmodel_milliseconds_count', _RUNTIMES)})", " loads"),
            _by_deployment(
                f"-sum by (pod)({_increase('unloadmodel_milliseconds_count', _RUNTIMES)})", " unloads"
            ),
            _by_deployment(
                f"-sum by (pod)({_increase('age_at_eviction_milliseconds_count', _RUNTIMES)})", " evictions"
            ),
            _by_deployment(f"sum by (pod)({_increase('loadmodel_failure', _RUNTIMES)})", " failures"),
            bars=True,
            interval="5m",
        ),
        _panel(
            61,
            "Loaded Model Sizes",
            "decbytes",
            _average_by_deployment("loaded_model_size_bytes", " model size"),
        ),
        _panel(
            47,
            "Model Loading Times",
            "ms",
            _average_by_deployment("loadmodel_milliseconds", " loading time"),
            _average_by_deployment("model_sizing_milliseconds", " sizing time"),
        ),
    ]


def _containers() -> Sequence[Panel]:
    return [
        _panel(
            48,
            "ModelMesh Container CPU Usage",
            "core",
            _by_pod(f"rate(container_cpu_usage_seconds_total{{{_MESH_CONTAINER}}}[$__rate_interval])"),
            Query(f"avg({_CPU_RESERVED}{{{_MESH_CONTAINER}}})", "Allocation"),
        ),
        _panel(
            50,
            "Model Mesh Container Memory Usage",
            "decmbytes",
            _by_pod(f"container_memory_usage_bytes{{{_MESH_CONTAINER}}}/1000/1000"),
            Query(f"avg({_MEMORY_RESERVED}{{{_MESH_CONTAINER}}}/1000/1000)", "Allocation"),
        ),
        _panel(
            33,
            "Serving Runtime Container CPU Usage",
            "core",
            Query(
                f"rate(container_cpu_usage_seconds_total{{{_MODEL_SERVERS}}}[$__rate_interval])",
                "{{container}}",
            ),
            Query(f"{_CPU_RESERVED}{{{_MODEL_SERVERS}}}", "{{container}}-alloc"),
        ),
        _panel(
            77,
            "Serving Runtime Container Memory Usage",
            "decmbytes",
            _by_pod(f"container_memory_usage_bytes{{{_MODEL_SERVERS}}}/1000/1000"),
            Query(f"avg({_MEMORY_RESERVED}{{{_MODEL_SERVERS}}}/1000/1000)", "Allocation"),
        ),
    ]


def _rate(name: str, matchers: str, window: str = "$__rate_interval") -> str:
    return f"rate(modelmesh_{name}{{{matchers}}}[{window}])"


def _increase(name: str, matchers: str) -> str:
    return f"increase(modelmesh_{name}{{{matchers}}}[$__rate_interval])"


def _average(name: str, matchers: str) -> str:
    """Of each series."""
    return f"{_rate(f'{name}_sum', matchers)}/{_rate(f'{name}_count', matchers)}"


def _overall_average(name: str, window: str = "$__rate_interval") -> str:
    return f"avg({_rate(f'{name}_sum', _SERVICE, window)})/avg({_rate(f'{name}_count', _SERVICE, window)})"


def _average_by_pod(name: str, matchers: str, window: str = "$__rate_interval") -> str:
    return (
        f"sum by (pod)({_rate(f'{name}_sum', matchers, window)})"
        f"/sum by (pod)({_rate(f'{name}_count', matchers, window)})"
    )


def _by_pod(expr: str) -> Query:
    """One line for each pod, named without the service."""
    return Query(f'label_replace({expr},"short_podname","$1","pod","$servicename-(.*)")', "{{short_podname}}")


def _by_deployment(expr: str, suffix: str = "") -> Query:
    return Query(_grouped("sum", expr, suffix))


def _average_by_deployment(name: str, suffix: str) -> Query:
    """The average of an observation, of all pods of a deployment."""
    total, count = (
        _grouped("avg", f"avg by (pod)({_rate(f'{name}_{part}', _RUNTIMES)})", suffix)
        for part in ("sum", "count")
    )
    return Query(f"{total}/{count}")


def _grouped(aggregation: str, expr: str, suffix: str) -> str:
    """By deployment, which is named in the middle of its pods' names; the suffix says what a line is."""
    replaced = f'label_replace({expr},"deployment","$1{suffix}","pod","$servicename-(.*?)-(.*)")'
    return f"{aggregation} by (deployment)({replaced})"
