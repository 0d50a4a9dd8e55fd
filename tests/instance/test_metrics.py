"""What instances tell Prometheus."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.core import Metric

from mesh.instance import MetricsSettings
from mesh.instance.settings import InfoMetric, MetricsOptions
from tests.grafana.busy_mesh import PODS, busy_mesh
from tests.instance.meshes import Client, Mesh, eventually
from tests.instance.scrapes import OPENMETRICS, PREFIX, Answer, scrape
from tests.instance.scripted_runtime import MIB, ScriptedRuntime
from tests.servers.traces import Traces

T = [0.5, 1, 2, 5, 10, 20, 50, 75, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 6e4, 1.2e5, 3e5]
A = [1e3 * s for s in (30, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400, 7 * 86400, 30 * 86400, 90 * 86400)]
S = [262144 * 4**n for n in range(8)]
M = [128 * 4**n for n in range(8)]
REQUEST = ("method", "code")
#: What dashboards of KServe ModelMesh count on: the histograms with their labels and bounds, ...
HISTOGRAMS: dict[str, tuple[tuple[str, ...], list[float]]] = {
    "api_request_milliseconds": (REQUEST, T),
    "invoke_model_milliseconds": (REQUEST, T),
    "request_size_bytes": (REQUEST, M),
    "response_size_bytes": (REQUEST, M),
    "cache_miss_milliseconds": ((), T),
    "loadmodel_milliseconds": ((), T),
    "unloadmodel_milliseconds": ((), T),
    "req_queue_delay_milliseconds": ((), T),
    "loading_queue_delay_milliseconds": ((), T),
    "model_sizing_milliseconds": ((), T),
    "age_at_eviction_milliseconds": ((), A),
    "loaded_model_size_bytes": ((), S),
}
#: ... the counters, and the gauges: of the leader, and of each instance.
COUNTERS = {"loadmodel_failure", "unloadmodel_failure", "unloadmodel_attempt_failure"}
CLUSTER = {"models_loaded_total", "models_with_failure_total", "models_managed_total"}
INSTANCE = {
    "instance_lru_seconds",
    "instance_lru_age_seconds",
    "instance_capacity_bytes",
    "instance_used_bytes",
    "instance_used_bps",
    "instance_models_total",
}


async def _busy_answers(mesh: Mesh) -> list[Answer]:
    """Of all instances of a mesh in which all families of KServe ModelMesh have been counted."""
    async with Traces() as traces, busy_mesh(mesh, traces) as targets:
        ports = [int(target.address.rpartition(":")[2]) for target in targets]

        async def all_there() -> bool:
            answers = [await scrape(port) for port in ports]
            return all(
                any(answer.series(f"{name}_count") for answer in answers)
                for name in (*HISTOGRAMS, "coldstart_milliseconds", "model_size_ratio")
            ) and any(answer.value("models_managed_total") for answer in answers)

        await eventually(all_there, 60)
        return [await scrape(port) for port in ports]


async def test_families_are_those_of_kserve_modelmesh_and_of_the_documentation(mesh: Mesh) -> None:
    answers = await _busy_answers(mesh)
    text = "".join(answer.text for answer in answers)
    families: dict[str, list[Metric]] = {}
    for answer in answers:
        for name, family in answer.families.items():
            families.setdefault(name, []).append(family)
    for name, (labels, bounds) in HISTOGRAMS.items():
        shown = families[PREFIX + name]
        assert {one.type for one in shown} == {"histogram"}
        samples = [sample for one in shown for sample in one.samples]
        assert {frozenset(sample.labels) - {"le"} for sample in samples} == {
            frozenset({*labels, "modelId", "vModelId"})
        }, name
        told = {sample.labels["le"] for sample in samples if sample.name.endswith("_bucket")}
        assert {float(bound) for bound in told} == {*bounds, float("inf")}, name
    for name in COUNTERS:
        assert f"# TYPE {PREFIX}{name} counter\n" in text
        assert re.search(rf"(?m)^{PREFIX}{name} \d", text)
    for name in CLUSTER | INSTANCE:
        assert f"# TYPE {PREFIX}{name} gauge\n" in text
        assert re.search(rf"(?m)^{PREFIX}{name} \d", text)
    # Each of the whole mesh's figures comes from one instance, and each of an instance's from all.
    assert {sum(f"\n{PREFIX}{name} " in answer.text for answer in answers) for name in CLUSTER} == {1}
    assert {sum(f"\n{PREFIX}{name} " in answer.text for answer in answers) for name in INSTANCE} == {
        len(PODS)
    }
    _check_documentation(families)


def _check_documentation(families: dict[str, list[Metric]]) -> None:
    """Holds the table of docs/metrics.md against what was scraped, both ways."""
    documentation = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    table = {}
    for line in documentation.splitlines():
        if row := re.match(r"\| `([a-z_]+)` \| (histogram|counter|gauge) \|([^|]*)\|.*\|([^|]*)\|$", line):
            name, kind, labels, shown = row.groups()
            # A parser knows a counter by its name without the suffix.
            name = name.removesuffix("_total") if kind == "counter" else name
            assert name not in table
            table[name] = (
                kind,
                {label.strip() for label in labels.split(",") if label.strip()},
                shown.strip(),
            )
    scraped = {name.removeprefix(PREFIX) for name in families if name.startswith(PREFIX)}
    assert scraped - table.keys() == set()
    assert {name for name, (_, _, shown) in table.items() if shown in {"", "leader"}} - scraped == set()
    for name in scraped:
        kind, labels, _ = table[name]
        for family in families[PREFIX + name]:
            assert family.type == kind, name
            for sample in family.samples:
                assert set(sample.labels) - {"le"} - ({"modelId", "vModelId"} - labels) == labels, name


async def test_without_models_there_are_no_labels_of_models(mesh: Mesh, unused_tcp_port: int) -> None:
    client = await mesh.add(metrics=MetricsSettings(port=unused_tcp_port, full_method_names=True))
    assert (await scrape(unused_tcp_port)).series("loadmodel_milliseconds_count") == {(): 0}
    await client.register("m")
    await client.infer("m")
    answer = await scrape(unused_tcp_port)
    assert answer.value("api_request_milliseconds_count", method="test.Echo/Call", code="OK") == 1
    assert answer.value("loadmodel_milliseconds_count") == 1
    assert "modelId=" not in answer.text


async def test_requests_are_counted_by_method_code_model_and_vmodel(mesh: Mesh, unused_tcp_port: int) -> None:
    runtime = ScriptedRuntime(mesh.socket())
    client = await mesh.add(runtime, metrics=MetricsSettings(port=unused_tcp_port, per_model=True))
    await client.register("m", load=True, sync=True)
    await client.set_vmodel("v", "m")
    await client.infer("m", b"x" * 200)
    await client.infer_vmodel("v")
    runtime.refuse_calls["m"] = (grpc.StatusCode.OUT_OF_RANGE, "no")
    with pytest.raises(grpc.aio.AioRpcError):
        await client.infer("m")
    for made_up in ("made-up", "made-up-too"):
        with pytest.raises(grpc.aio.AioRpcError):
            await client.infer(made_up)
    answer = await scrape(unused_tcp_port)

    def counted(family: str) -> dict[tuple[str, str, str, str], float]:
        return {
            (of["method"], of["code"], of["modelId"], of["vModelId"]): value
            for labels, value in answer.series(f"{family}_count").items()
            if (of := dict(labels))
        }

    both = {
        ("Call", "OK", "m", ""): 1,
        ("Call", "OK", "m", "v"): 1,
        ("Call", "OUT_OF_RANGE", "m", ""): 1,
    }
    # Ids that clients make up have no series of their own.
    assert counted("api_request_milliseconds") == both | {("Call", "NOT_FOUND", "", ""): 2}
    assert counted("invoke_model_milliseconds") == both
    assert counted("response_size_bytes") == {key: 1 for key in both if key[1] == "OK"}
    assert answer.value("request_size_bytes_bucket", modelId="m", vModelId="", code="OK", le="128.0") == 0
    assert answer.value("request_size_bytes_bucket", modelId="m", vModelId="", code="OK", le="512.0") == 1


async def test_series_of_models_are_bounded_and_go_when_idle(mesh: Mesh, unused_tcp_port: int) -> None:
    client = await mesh.add(
        metrics=MetricsSettings(port=unused_tcp_port, per_model=True),
        metrics_options=MetricsOptions(max_model_series=2, idle_ms=1_500),
    )

    async def ask(*models: str) -> None:
        for model in models:
            await client.register(model)
            await client.infer(model)

    async def models(family: str) -> dict[str, float]:
        answer = await scrape(unused_tcp_port)
        return {dict(labels)["modelId"]: value for labels, value in answer.series(f"{family}_count").items()}

    await ask("a", "b", "c", "d")
    assert await models("api_request_milliseconds") == {"a": 1, "b": 1, "": 2}
    assert await models("loadmodel_milliseconds") == {"a": 1, "b": 1, "": 2}
    answer = await scrape(unused_tcp_port)
    assert answer.value("model_series") == 2
    assert answer.value("model_series_beyond") > 0

    async def only_the_rest() -> bool:
        return (await models("api_request_milliseconds")).keys() | await models("loadmodel_milliseconds") == {
            ""
        }

    await eventually(only_the_rest)
    await ask("c")
    assert await models("api_request_milliseconds") == {"c": 1, "": 2}


async def test_loads_evictions_and_sizes_are_told_in_detail(mesh: Mesh, unused_tcp_port: int) -> None:
    runtime = ScriptedRuntime(mesh.socket(), capacity=25 * MIB, size=8 * MIB, loading_concurrency=1)
    runtime.true_sizes = {"a": 12 * MIB}
    client = await mesh.add(runtime, metrics=MetricsSettings(port=unused_tcp_port))
    await client.register("a")
    await client.infer("a")
    answer = await scrape(unused_tcp_port)
    phases = {
        dict(key)["phase"]: count for key, count in answer.series("coldstart_milliseconds_count").items()
    }
    assert phases == {"queue": 1, "pull": 1, "load": 1, "total": 1}
    assert answer.value("model_size_ratio_sum", source="predicted") == pytest.approx(1.5)
    assert answer.value("evictions", reason="room") == 0
    assert answer.value("data_plane_upstream_connections", to="runtime") == 1
    assert answer.value("data_plane_accepted") == 1

    for model in "bcde":
        await client.register(model)
    runtime.load_delay_s = 1.0
    waiting = [asyncio.create_task(client.infer(model)) for model in "bc"]

    async def is_one_behind_the_other() -> bool:
        now = await scrape(unused_tcp_port)
        return (now.value("instance_loads"), now.value("instance_load_queue")) == (1, 1)

    await eventually(is_one_behind_the_other)
    await asyncio.gather(*waiting)
    answer = await scrape(unused_tcp_port)
    assert answer.value("evictions", reason="room") >= 1
    assert answer.value("coldstart_milliseconds_bucket", phase="queue", le="500.0") == 2
    total, queue, load = (
        answer.value("coldstart_milliseconds_sum", phase=phase) for phase in ("total", "queue", "load")
    )
    assert total == pytest.approx(queue + load, rel=0.01)
    assert answer.value("cache_miss_milliseconds_count") >= 2


async def test_the_leader_alone_tells_of_the_whole_mesh_and_its_successor_after_it(mesh: Mesh) -> None:
    ports = []
    for port in await _free_ports(2):
        ports.append(port)
        await mesh.add(metrics=MetricsSettings(port=port))
    await mesh.settle()
    await mesh.clients[0].register("m", load=True, sync=True)

    async def managed() -> list[float | None]:
        answers = [await scrape(port) for port in ports]
        return [next(iter(answer.series("models_managed_total").values()), None) for answer in answers]

    async def is_told_by_the_first() -> bool:
        return await managed() == [1, None]

    async def is_told_by_the_second() -> bool:
        answer = await scrape(ports[1])
        return answer.series("models_managed_total") == {(): 1}

    await eventually(is_told_by_the_first)
    await mesh.instances[0].drain()
    await mesh.instances[0].close()
    await eventually(is_told_by_the_second)


async def _free_ports(number: int) -> list[int]:
    servers = [await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) for _ in range(number)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    for server in servers:
        server.close()
        await server.wait_closed()
    return ports


async def _one(mesh: Mesh, port: int, **options: Any) -> Client:
    client = await mesh.add(
        metrics=MetricsSettings(port=port, per_model=True), metrics_options=MetricsOptions(**options)
    )
    await client.register("m", load=True, sync=True)
    await client.infer("m")
    return client


async def test_answers_come_in_the_format_that_is_asked_for(mesh: Mesh, unused_tcp_port: int) -> None:
    await _one(mesh, unused_tcp_port)
    plain = await scrape(unused_tcp_port)
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert not plain.text.rstrip().endswith("# EOF")
    opened = await scrape(unused_tcp_port, "/", accept=OPENMETRICS, accept_encoding="gzip")
    assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert opened.headers["content-encoding"] == "gzip"
    assert opened.text.endswith("\n# EOF\n")
    assert opened.text.count("# EOF") == 1
    # Read by the parser of the format, which is strict; and the same in both but for what changes by itself.
    ours = {name for name in opened.families if name.startswith(PREFIX)}
    assert ours == {name for name in plain.families if name.startswith(PREFIX)}
    name = "api_request_milliseconds_count"
    assert opened.value(name, modelId="m") == plain.value(name, modelId="m") == 1


async def test_other_paths_and_verbs_are_refused(mesh: Mesh, unused_tcp_port: int) -> None:
    await _one(mesh, unused_tcp_port)
    assert (await scrape(unused_tcp_port, "/other")).status == 404
    assert (await scrape(unused_tcp_port, method="POST")).status == 405
    head = await scrape(unused_tcp_port, method="HEAD")
    assert (head.status, head.text) == (200, "")


async def test_some_families_and_samples_can_be_asked_for(mesh: Mesh, unused_tcp_port: int) -> None:
    await _one(mesh, unused_tcp_port)

    async def samples(*names: str) -> set[str]:
        answer = await scrape(unused_tcp_port, names=[PREFIX + name for name in names])
        return {sample.name.removeprefix(PREFIX) for f in answer.families.values() for sample in f.samples}

    assert await samples("api_request_milliseconds_count", "instance_ready") == {
        "api_request_milliseconds_count",
        "instance_ready",
    }
    whole = {f"loadmodel_milliseconds_{suffix}" for suffix in ("bucket", "count", "sum")}
    assert await samples("loadmodel_milliseconds") == whole
    assert await samples("no_such_name") == set()


async def test_the_pod_and_the_process_are_described(mesh: Mesh, unused_tcp_port: int) -> None:
    await _one(mesh, unused_tcp_port, info=InfoMetric("pod_info", (("zone", 'a"b'), ("node", "n1"))))
    answer = await scrape(unused_tcp_port)
    families = answer.families
    (info,) = families["pod_info"].samples
    assert (info.labels, info.value) == ({"zone": 'a"b', "node": "n1"}, 1)
    (build,) = families[PREFIX + "build_info"].samples
    assert re.fullmatch(r"\d+\.\d+.*", build.labels["version"])
    (memory,) = families["process_resident_memory_bytes"].samples
    assert memory.value > 10 * MIB
    (cpu,) = families["process_cpu_seconds"].samples
    assert cpu.value > 0


async def test_scrapes_are_logged_where_that_is_wanted(
    mesh: Mesh, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    await _one(mesh, unused_tcp_port, log_scrapes=True)
    with caplog.at_level(logging.INFO):
        await scrape(unused_tcp_port)
        await eventually(lambda: "scraped by 127.0.0.1" in caplog.text)


async def test_a_mistake_in_an_option_is_logged_and_stops_nothing(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    client = await mesh.add(
        metrics=MetricsSettings(off_because="MM_METRICS='prometheus:prot=1': no option 'prot'")
    )
    await client.register("m")
    assert await client.infer("m") == b"m:x"
    assert "there are no metrics: MM_METRICS='prometheus:prot=1'" in caplog.text


async def test_probes_follow_the_instance(mesh: Mesh, unused_tcp_port: int) -> None:
    await mesh.add(probe_port=unused_tcp_port)
    assert (await scrape(unused_tcp_port, "/ready")).status == 200
    assert (await scrape(unused_tcp_port, "/live/")).status == 200
    assert (await scrape(unused_tcp_port, "/other")).status == 404
    await mesh.instances[0].drain()
    answer = await scrape(unused_tcp_port, "/ready")
    assert (answer.status, answer.text) == (503, "the instance is leaving the mesh\n")


async def test_how_long_the_registry_has_been_away_is_told(mesh: Mesh, unused_tcp_port: int) -> None:
    await mesh.add(metrics=MetricsSettings(port=unused_tcp_port))

    async def lag_s() -> float:
        return (await scrape(unused_tcp_port)).value("registry_lag_seconds")

    before = await lag_s()
    mesh.registry.stop()
    await asyncio.sleep(0.5)
    assert await lag_s() >= max(before, 0.5)
