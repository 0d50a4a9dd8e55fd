"""What is traced of a mesh, and what that costs those who ask it."""

import asyncio
import importlib.util
import io
import json
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from mesh.dataplane import DataPlane
from mesh.instance import MetricsSettings, SettingError, Settings, TracingSettings
from mesh.instance.tracing import make_tracing
from tests.instance.meshes import Client, Mesh, eventually
from tests.instance.scrapes import scrape
from tests.instance.test_request_log import _found, lines
from tests.servers.traces import ReceivedSpan, Traces, tree

__all__ = ["lines"]

CALL = "test.Echo/Call"
CLIENT_SPAN = "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are sent, and given up, sooner than by default."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


@pytest.fixture
async def traces() -> AsyncIterator[Traces]:
    async with Traces() as started:
        yield started


def to(traces: Traces) -> TracingSettings:
    return TracingSettings(endpoint=traces.grpc_url, protocol="grpc")


def trace(number: int) -> str:
    return f"{number:032x}"


async def ask(client: Client, number: int, model_id: str = "m", sampled: int = 1) -> bytes:
    """A request of the trace of that number."""
    return await client.infer(model_id, traceparent=f"00-{trace(number)}-{CLIENT_SPAN}-0{sampled}")


async def _all_of(traces: Traces, number: int) -> list[ReceivedSpan]:
    def have_come(spans: list[ReceivedSpan]) -> bool:
        known = {span.span_id for span in spans} | {CLIENT_SPAN}
        return any(span.parent_id == CLIENT_SPAN for span in spans) and all(
            span.parent_id in known for span in spans
        )

    return await traces.wait_for(trace(number), have_come)


def _named(spans: list[ReceivedSpan], name: str) -> ReceivedSpan:
    return next(span for span in spans if span.name == name)


async def test_those_who_wait_for_a_load_are_linked_to_it(mesh: Mesh, traces: Traces) -> None:
    holder = await mesh.add(tracing=to(traces))
    router, other = [await mesh.add(router=True, tracing=to(traces)) for _ in range(2)]
    await mesh.settle()
    await holder.register("m")
    runtime = mesh.runtimes[0]
    runtime.load_delay_s = 1.0
    # Two at one moment are one ask; the third finds the load under way, at the instance that has begun it.
    waiting = [asyncio.create_task(ask(router, number)) for number in (1, 2)]
    await eventually(lambda: runtime.loads["m"])
    await asyncio.gather(*waiting, ask(other, 3))
    assert runtime.loads["m"] == 1

    spans = [await _all_of(traces, number) for number in (1, 2, 3)]
    cause, merged = sorted(spans[:2], key=lambda spans: "mesh.load" not in {span.name for span in spans})
    load, first_ask = _named(cause, "mesh.load"), _named(cause, "mesh.miss")
    assert _named(merged, "mesh.miss").links == [(first_ask.trace_id, first_ask.span_id)]
    wait = _named(spans[2], "mesh.wait")
    assert wait.links == [(load.trace_id, load.span_id)]
    assert wait.instance == load.instance == mesh.instances[0].settings.instance_id
    assert "mesh.load" not in {span.name for span in [*merged, *spans[2]]}


async def test_a_failure_marks_the_spans_that_it_goes_through(mesh: Mesh, traces: Traces) -> None:
    client = await mesh.add(tracing=to(traces))
    mesh.runtimes[0].refuse["m"] = (grpc.StatusCode.INVALID_ARGUMENT, "no such format")
    await client.register("m")
    with pytest.raises(grpc.aio.AioRpcError):
        await ask(client, 1)
    spans = await _all_of(traces, 1)
    failed = {span.name: span.message for span in spans if span.failed}
    assert failed.keys() == {
        CALL,
        "mesh.miss",
        "mesh.load",
        "mesh.load.server",
        "mmesh.ModelRuntime/loadModel",
    }
    assert "no such format" in failed["mesh.load"]
    assert _named(spans, CALL).attributes["error.type"] == "INTERNAL"

    # That a client asks for what is not there is no failure of the server's.
    with pytest.raises(grpc.aio.AioRpcError):
        await ask(client, 2, "other")
    spans = await _all_of(traces, 2)
    assert [span.name for span in spans if span.failed] == ["mesh.miss"]
    assert _named(spans, CALL).attributes["rpc.response.status_code"] == "NOT_FOUND"


async def test_what_a_management_call_causes_belongs_to_its_callers_trace(mesh: Mesh, traces: Traces) -> None:
    client = await mesh.add(tracing=to(traces))
    await client.register("m")
    parent = (("traceparent", f"00-{trace(1)}-{CLIENT_SPAN}-01"),)
    ensure: Any = client.management.ensureLoaded
    from mesh.protos import model_mesh_pb2 as api

    await ensure(api.EnsureLoadedRequest(modelId="m", sync=True), metadata=parent, timeout=20)
    spans = await _all_of(traces, 1)
    ((call, place, load),) = tree(spans, CLIENT_SPAN)
    assert (call, place, load[0]) == ("mmesh.ModelMesh/ensureLoaded", "mesh.place", "mesh.load")


async def test_nothing_is_told_of_what_is_not_sampled(mesh: Mesh, traces: Traces) -> None:
    client = await mesh.add(tracing=to(traces))
    none = TracingSettings(
        endpoint=traces.grpc_url, protocol="grpc", sampler="parentbased_traceidratio", sampler_arg="0"
    )
    other = await mesh.add(router=True, tracing=none)
    await mesh.settle()
    await client.register("m")
    await ask(client, 1, sampled=0)
    await other.infer("m")
    # What a caller samples is, whatever the share of one's own.
    await ask(other, 2)
    await _all_of(traces, 2)
    assert {decision.trace_id for decision in await client.explain("m")} == {""}
    assert {span.trace_id for span in traces.spans} == {trace(2)}


@pytest.mark.parametrize("refused", [False, True])
async def test_a_collector_that_fails_costs_no_request_and_what_is_lost_is_counted(
    mesh: Mesh, traces: Traces, unused_tcp_port: int, lines: io.StringIO, refused: bool
) -> None:
    traces.refuse = grpc.StatusCode.INVALID_ARGUMENT
    endpoint = traces.grpc_url if refused else "http://127.0.0.1:1"
    settings = TracingSettings(endpoint=endpoint, protocol="grpc", max_queued=512)
    client = await mesh.add(tracing=settings, metrics=MetricsSettings(port=unused_tcp_port))
    await client.register("m")
    for _ in range(6):
        assert await asyncio.gather(*(client.infer("m") for _ in range(100))) == [b"m:x"] * 100

    async def lost() -> dict[str, int]:
        found = (await scrape(unused_tcp_port)).series("trace_spans_lost")
        return {dict(labels)["reason"]: int(count) for labels, count in found.items()}

    async def are_lost() -> bool:
        counts = await lost()
        return counts["export_failed"] > 0 and (refused or counts["queue_full"] > 0)

    await eventually(are_lost, 20)
    await eventually(lambda: _found(lines, "traces have gaps"))
    began = time.monotonic()
    await mesh.instances[0].close()
    # A second of it is what the collector gets; no limit of the SDK's is that short.
    assert time.monotonic() - began < 25


async def test_histograms_of_requests_name_the_last_trace_of_each_bucket(
    mesh: Mesh, traces: Traces, unused_tcp_port: int
) -> None:
    client = await mesh.add(tracing=to(traces), metrics=MetricsSettings(port=unused_tcp_port))
    await client.register("m")
    mesh.runtimes[0].load_delay_s = 0.3
    await ask(client, 1)
    mesh.runtimes[0].call_delay_s = 0.3
    for number in (2, 3):
        await ask(client, number)
    await ask(client, 4, sampled=0)
    text = await asyncio.to_thread(_open_metrics, unused_tcp_port)
    found = re.findall(r'modelmesh_(\w+)_bucket{.*le="([\d.]+)"} \d+ # {trace_id="(\w+)"} ([\d.]+)', text)
    examples = {(name, trace_id) for name, _, trace_id, _ in found}
    assert {("api_request_milliseconds", trace(3)), ("invoke_model_milliseconds", trace(3))} <= examples
    assert {("cache_miss_milliseconds", trace(1)), ("loadmodel_milliseconds", trace(1))} <= examples
    assert trace(4) not in {trace_id for _, trace_id in examples}
    assert all(float(value) <= float(bound) for _, bound, _, value in found)


def _open_metrics(port: int) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}
    )
    with urllib.request.urlopen(request, timeout=5) as reply:
        return str(reply.read().decode())


async def test_what_has_not_been_sent_at_the_end_is_sent_then(
    mesh: Mesh, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    client = await mesh.add(tracing=to(traces))
    await client.register("m")
    await ask(client, 1)
    assert traces.spans == []
    await mesh.instances[0].close()
    assert _named(traces.of(trace(1)), CALL).parent_id == CLIENT_SPAN


async def test_the_log_and_explanations_name_the_trace_of_what_is_done_for_a_request(
    mesh: Mesh, traces: Traces, lines: io.StringIO
) -> None:
    client = await mesh.add(tracing=to(traces))
    await client.register("m")
    await ask(client, 1)
    with suppress(grpc.aio.AioRpcError):
        await ask(client, 2, "other")
    await client.register("quiet", load=True, sync=True)
    (loaded, quiet) = _found(lines, "loaded")
    assert (loaded["trace_id"], "trace_id" in quiet) == (trace(1), False)
    decided = {decision.kind: decision.trace_id for decision in await client.explain("m")}
    assert decided == {"placement": trace(1), "load": trace(1)}
    await eventually(lambda: _found(lines, "request failed with NOT_FOUND"))
    (failed,) = _found(lines, "request failed with NOT_FOUND")
    spans = await _all_of(traces, 2)
    assert (failed["trace_id"], failed["span_id"]) == (trace(2), _named(spans, CALL).span_id)


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if "opentelemetry" in name else find(name, *rest),
    )


@pytest.fixture
def dataplane() -> Iterator[DataPlane]:
    plane = DataPlane()
    yield plane
    plane.close(0)


def _settings(**environment: str) -> Settings:
    return Settings.from_environment({"MM_SERVICE_NAME": "tests", "KV_STORE": "memory:", **environment})


@pytest.mark.usefixtures("without_packages")
def test_tracing_without_its_packages_says_what_to_install(dataplane: DataPlane, lines: io.StringIO) -> None:
    with pytest.raises(SettingError, match=r"OTEL_TRACES_EXPORTER.*install model-mesh\[tracing\]"):
        make_tracing(_settings(OTEL_TRACES_EXPORTER="otlp"), dataplane)
    # A collector may have been set for every process of a host.
    assert make_tracing(_settings(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318"), dataplane) is None
    assert "model-mesh[tracing]" in json.loads(lines.getvalue())["message"]


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://localhost:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "http://c:4317",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/path",
            },
            "http://t/path",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_opentelemetrys_own_variables_say_whether_and_where(
    environment: dict[str, str], url: str | None
) -> None:
    tracing = _settings(**environment).tracing
    assert (tracing.url if tracing.on else None) == url


@pytest.mark.parametrize(
    ("sampler", "argument", "sampling"),
    [
        ("", "", (1.0, True)),
        ("always_off", "", (0.0, False)),
        ("parentbased_traceidratio", "0.25", (0.25, True)),
        ("traceidratio", "", (1.0, False)),
        ("traceidratio", "many", (1.0, False)),
        ("parentbased_jaeger_remote", "endpoint=x", (1.0, True)),
    ],
)
def test_opentelemetrys_own_variables_say_which_traces(
    sampler: str, argument: str, sampling: tuple[float, bool]
) -> None:
    given = {"OTEL_TRACES_SAMPLER": sampler} if sampler else {}
    tracing = _settings(**given, OTEL_TRACES_SAMPLER_ARG=argument).tracing
    assert tracing.sampling == sampling


def test_an_exporter_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingError, match="OTEL_TRACES_EXPORTER='zipkin': must be otlp or none"):
        _settings(OTEL_TRACES_EXPORTER="zipkin")
