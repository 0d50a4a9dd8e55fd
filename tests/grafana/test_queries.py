"""Every query of every dashboard returns data, on a real Prometheus that scrapes a real mesh under load."""

import asyncio
import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.grafana import boards, kubernetes_series
from tests.grafana.busy_mesh import MODELS, NAMESPACE, PODS, SERVICE, busy_mesh
from tests.grafana.test_rules import RULES
from tests.instance.meshes import Mesh
from tests.servers.prometheus import PrometheusServer, QueryRefusedError, Target, configure
from tests.servers.traces import Traces

#: Of the dashboards of the mesh: what they choose at first.
_CHOSEN = {"namespace": ".*", "job": "mesh", "by": "pod", "instance": ".*"}
#: Values of the dashboards' variables; several at once come as Grafana writes them for regular expressions.
_VARIABLES = {
    "mesh": _CHOSEN,
    "model": _CHOSEN | {"model": MODELS[0]},
    "modelmesh": {
        "namespace": NAMESPACE,
        "servicename": SERVICE,
        "mm_container": "mm",
        "runtime": "(mlserver|triton|ovms|torchserve)",
    },
}
_METRIC = re.compile(r"\bmodelmesh[_:][\w:]+")
#: Where dashboards ask for exemplars.
_TRACED = "modelmesh_api_request_milliseconds_bucket"
_OF_GRAFANA = {"__interval": "1m", "__rate_interval": "1m"}
#: Within which everything has happened at least once and was scraped twice, seconds.
_DEADLINE_S = 60.0


async def test_every_query_and_rule_works(
    tmp_path: Path, prometheus_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All in one test, since to fill a Prometheus takes its time."""
    queries = {
        f"{name}: {panel.title}: {query}": boards.interpolate(query, _VARIABLES[name] | _OF_GRAFANA)
        for name in _VARIABLES
        for panel in boards.panels(boards.load(name))
        for query in panel.queries
    }
    for rules in RULES:
        # What alerts ask may be true of none, but all that they ask about must be there.
        queries |= {f"{rules.name}: {name}": name for name in _METRIC.findall(rules.read_text())}
    containers = dict.fromkeys(PODS, ("mm", "model-server"))
    # Spans are given up sooner than by default.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    async with Traces() as traces, Mesh(tmp_path) as mesh, busy_mesh(mesh, traces) as targets:
        with kubernetes_series.served(NAMESPACE, containers) as cluster:
            everything = [*targets, Target(cluster, {}, job="cluster")]
            prometheus = PrometheusServer(
                prometheus_program, tmp_path, configure(tmp_path, everything, RULES)
            )
            await asyncio.to_thread(prometheus.start)
            try:
                missing = await _without_data(prometheus, queries)
                traced = await asyncio.to_thread(prometheus.exemplars, _TRACED)
                rules_told = await asyncio.to_thread(prometheus.rules)
            finally:
                await asyncio.to_thread(prometheus.process.kill)
    assert missing == {}
    assert traced
    assert all(len(bytes.fromhex(labels["trace_id"])) == 16 for labels in traced)
    assert {rule["health"]: rule for rule in rules_told}.keys() == {"ok"}


async def _without_data(prometheus: PrometheusServer, queries: Mapping[str, str]) -> Mapping[str, str]:
    """Queries that had no data until the deadline, and what Prometheus said to each."""
    missing = dict.fromkeys(queries, "not asked")
    async with asyncio.timeout(_DEADLINE_S + 20) as deadline:
        loop = asyncio.get_running_loop()
        end = loop.time() + _DEADLINE_S
        assert deadline.when() is not None
        while missing and loop.time() < end:
            answers = {name: await asyncio.to_thread(_ask, prometheus, queries[name]) for name in missing}
            missing = {name: answer for name, answer in answers.items() if answer}
            await asyncio.sleep(0.5)
    return missing


def _ask(prometheus: PrometheusServer, query: str) -> str:
    """What is wrong with the answer; empty where it is data."""
    try:
        series = prometheus.query(query)
    except QueryRefusedError as error:
        return str(error)
    if not series:
        return "no series"
    if all(math.isnan(value) for _, value in series):
        return "only NaN"
    return ""
