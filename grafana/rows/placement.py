"""Where models live, and how full the instances are."""

from grafana import model
from grafana.panels import Limits, Query, graph, listing
from grafana.promql import BY_INSTANCE, by_instance, increase, of_leader, rate, series, total
from grafana.rows import Section


def section() -> Section:
    """By instance; each stands beside one model server."""
    return Section(
        "Where models live",
        [
            (
                8,
                graph(
                    "Models",
                    [
                        of_leader("models_managed_total", "registered"),
                        of_leader("models_loaded_total", "with a copy"),
                        of_leader("models_with_failure_total", "failed to load"),
                        Query(total(series("instance_models_total")), "copies"),
                    ],
                    description="Of the whole mesh, as its leader sees it. More copies than models with a "
                    "copy: some have several.",
                ),
            ),
            (
                8,
                graph(
                    "Copies by instance",
                    [by_instance("instance_models_total")],
                    description="Copies in the cache of each instance, those that are still loading included.",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Memory in use by instance",
                    [Query(f"{total(series('instance_used_bps'), '$by')} / 10000", BY_INSTANCE)],
                    description="Share of the memory for models. A mesh with more models than fit is nearly "
                    "full, and evicts; that is no fault. Judge by *Age of the cache*.",
                    unit="percentunit",
                    figures=True,
                ),
            ),
            (
                8,
                graph(
                    "Capacity and use",
                    [
                        Query(total(series("instance_capacity_bytes")), "capacity"),
                        Query(total(series("instance_used_bytes")), "in use"),
                    ],
                    description="Memory for models, of the chosen instances together.",
                    unit="bytes",
                ),
            ),
            (
                8,
                graph(
                    "Load of the busiest copy",
                    [by_instance("busiest_copy_load_percent")],
                    description="Of what one copy is to take, by instance. It stays below 100 while further "
                    "copies can be added: above, the mesh needs more instances.",
                    unit="percent",
                    limits=Limits(warn=100, bad=150),
                ),
            ),
            (
                8,
                graph(
                    "Copies added and taken away",
                    [
                        Query(total(increase("copies_added"), "reason"), "added: {{reason}}"),
                        Query(total(increase("copies_not_added"), "reason"), "not added: {{reason}}"),
                        Query(f"-{total(increase('copies_removed'), 'reason')}", "taken away: {{reason}}"),
                        Query(total(increase("copies_moved"), "reason"), "moved: {{reason}}"),
                        Query(f"max({series('copies_missing')})", "missing"),
                    ],
                    description="Copies beside the first, by what asked for them. *Not added*: no instance "
                    "could take one. *Missing*: policies ask for them.",
                    bars=True,
                    interval="1m",
                ),
            ),
            (
                12,
                listing(
                    "Busiest models",
                    Query(
                        f"topk(25, {total(rate('api_request_milliseconds_count', _OF_A_MODEL), 'modelId')})"
                    ),
                    description="External requests per second. Needs per-model metrics "
                    "(`per_model_metrics=true` in `MM_METRICS`). A click leads to the model's own dashboard.",
                    columns=["modelId"],
                    value="requests",
                    unit="reqps",
                    links={"modelId": model.LINK},
                ),
            ),
            (
                12,
                listing(
                    "Where the busiest models are served",
                    Query(
                        "topk(50,"
                        f" {total(rate('invoke_model_milliseconds_count', _OF_A_MODEL), 'modelId', '$by')} > 0)"
                    ),
                    description="Calls of the model server beside each instance, per second. Needs per-model "
                    "metrics.",
                    columns=["modelId", "$by"],
                    value="calls",
                    unit="reqps",
                    links={"modelId": model.LINK},
                ),
            ),
        ],
    )


_OF_A_MODEL = 'modelId!=""'
