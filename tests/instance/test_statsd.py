"""What instances send to StatsD."""

import asyncio
import re
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.dataplane import TIME_BOUNDS_MS
from mesh.instance import MetricsSettings
from mesh.instance.metrics.statsd import MAX_PACKET, packets, spread
from mesh.instance.settings import EvictionSettings, MetricsOptions
from tests.instance.meshes import Client, Mesh, eventually
from tests.instance.scripted_runtime import MIB, ScriptedRuntime


@dataclass
class Receiver:
    """A StatsD server: what came in packets of its socket.

    Attributes:
        counts: sums of counters by name.
        times: values by name, each as often as its sample rate says.
        gauges: last values by name.
    """

    port: int
    sizes: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    gauges: dict[str, float] = field(default_factory=dict)

    def take(self, packet: bytes) -> None:
        self.sizes.append(len(packet))
        for line in packet.decode().split("\n"):
            found = re.fullmatch(r"([^:]+):([0-9.]+)\|(c|ms|g)(?:\|@([0-9.e-]+))?", line)
            assert found is not None, line
            name, value, kind, rate = found.groups()
            if kind == "c":
                self.counts[name] += int(value)
            elif kind == "g":
                self.gauges[name] = float(value)
            else:
                self.times[name] += [float(value)] * (1 if rate is None else round(1 / float(rate)))

    @property
    def names(self) -> set[str]:
        return {*self.counts, *self.times, *self.gauges}


@contextmanager
def _receiver() -> Iterator[Receiver]:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as incoming:
        incoming.bind(("127.0.0.1", 0))
        incoming.setblocking(False)
        receiver = Receiver(incoming.getsockname()[1])
        loop.add_reader(incoming, lambda: receiver.take(incoming.recv(65_536)))
        try:
            yield receiver
        finally:
            loop.remove_reader(incoming)


@asynccontextmanager
async def _busy(mesh: Mesh, settings: MetricsSettings) -> AsyncIterator[Client]:
    """An instance at which everything has happened that is told of."""
    runtime = ScriptedRuntime(mesh.socket(), capacity=25 * MIB, size=8 * MIB, limit_concurrency=1)
    runtime.load_delay_s = 0.05
    runtime.true_sizes["measured"] = 0
    runtime.refuse["broken"] = (grpc.StatusCode.INVALID_ARGUMENT, "no")
    client = await mesh.add(
        runtime,
        metrics=settings,
        metrics_options=MetricsOptions(statsd_interval_ms=100),
        eviction=EvictionSettings(min_churn_age_ms=0),
    )
    for model in ("a", "b", "c", "measured", "broken"):
        await client.register(model)
    for model in ("a", "b", "c", "measured"):
        for _ in range(5):
            await client.infer(model, b"x" * 200)
    with pytest.raises(grpc.aio.AioRpcError):
        await client.infer("broken")
    await eventually(lambda: sum(runtime.unloads.values()) >= 1)
    yield client


_PLAIN = {
    "cache_miss_milliseconds": "cacheMiss",
    "loadmodel_milliseconds": "loadModel",
    "unloadmodel_milliseconds": "unloadModel",
    "req_queue_delay_milliseconds": "queueDelay",
    "loading_queue_delay_milliseconds": "loadModelQueueDelay",
    "model_sizing_milliseconds": "sizeModel",
    "age_at_eviction_milliseconds": "cache_evictModel",
    "loaded_model_size_bytes": "mmModelSizeBytes",
    "cache_miss": "cacheMiss",
    "loadmodel": "loadModel",
    "unloadmodel": "unloadModel",
    "loadmodel_failure": "loadModel-failed",
    "model_evicted": "cache_evictModel",
    "models_loaded_total": "modelsLoaded",
    "models_with_failure_total": "modelsWithLoadFailure",
    "models_managed_total": "modelsManaged",
    "instance_lru_seconds": "localLruTimestamp",
    "instance_lru_age_seconds": "localLruAge",
    "instance_capacity_bytes": "totalCapacity",
    "instance_used_bytes": "totalUsed",
    "instance_used_bps": "capacityUsage",
    "instance_models_total": "modelCount",
}


async def test_names_and_values_are_those_of_kserve_modelmesh(mesh: Mesh) -> None:
    ok = "#code=OK,method=Call"
    failed = "#code=INTERNAL,method=Call"
    requests = {
        *(f"api_request_milliseconds_statsd{ok} api_request_statsd{ok} api_request_statsd{failed}".split()),
        *(f"invoke_model_milliseconds_statsd{ok} invoke_model_statsd{ok}".split()),
        *(f"request_size_bytes_statsd{ok} request_size_bytes_statsd{failed}".split()),
        f"response_size_bytes_statsd{ok}",
    }
    expected = {f"modelmesh_{name}" for name in requests | {f"{name}_statsd" for name in _PLAIN}}
    with _receiver() as receiver:
        async with _busy(mesh, MetricsSettings(statsd_port=receiver.port)):
            await eventually(lambda: receiver.names == expected)
    assert receiver.counts[f"modelmesh_api_request_statsd{ok}"] == 20
    assert len(receiver.times[f"modelmesh_api_request_milliseconds_statsd{ok}"]) == 20
    sizes = receiver.times[f"modelmesh_request_size_bytes_statsd{ok}"]
    assert sum(sizes) == pytest.approx(20 * 200, rel=0.001)
    assert receiver.counts["modelmesh_loadmodel_failure_statsd"] >= 1
    assert receiver.gauges["modelmesh_models_managed_total_statsd"] == 5
    assert max(receiver.times["modelmesh_loaded_model_size_bytes_statsd"]) == pytest.approx(
        8 * MIB, rel=0.001
    )
    assert max(receiver.sizes) <= MAX_PACKET


async def test_older_names_are_sent_where_that_is_wanted(mesh: Mesh) -> None:
    method = "test.Echo.Call"
    requests = {
        *(f"api-{method} api-{method}.OK api-{method}.INTERNAL invoke-{method} invoke-{method}.OK".split()),
        *(f"reqSize-{method}.OK reqSize-{method}.INTERNAL respSize-{method}.OK".split()),
    }
    expected = {f"model-mesh.{name}" for name in requests | set(_PLAIN.values())}
    with _receiver() as receiver:
        settings = MetricsSettings(statsd_port=receiver.port, statsd_legacy=True, full_method_names=True)
        async with _busy(mesh, settings):
            await eventually(lambda: receiver.names == expected)
            units = MIB // 8192
            # A part of what the model server has is kept for unloads.
            assert 20 * units < receiver.gauges["model-mesh.totalCapacity"] <= 25 * units
            assert max(receiver.times["model-mesh.mmModelSizeBytes"]) == pytest.approx(8 * units, rel=0.001)


async def test_what_happened_last_is_sent_before_an_instance_ends(mesh: Mesh) -> None:
    with _receiver() as receiver:
        client = await mesh.add(metrics=MetricsSettings(statsd_port=receiver.port))
        await client.register("m")
        await client.infer("m")
        assert receiver.counts == {}
        await mesh.instances[0].close()
        await eventually(lambda: receiver.counts["modelmesh_api_request_statsd#code=OK,method=Call"] == 1)


async def test_a_server_that_is_not_there_is_no_trouble(mesh: Mesh) -> None:
    with _receiver() as receiver:
        gone = receiver.port
    options = MetricsOptions(statsd_interval_ms=20)
    client = await mesh.add(metrics=MetricsSettings(statsd_port=gone), metrics_options=options)
    await client.register("m")
    for _ in range(5):
        assert await client.infer("m") == b"m:x"
        await asyncio.sleep(0.05)
    assert mesh.instances[0].health.ready


_BOUNDS = tuple(TIME_BOUNDS_MS)


def _buckets(values: Sequence[float]) -> list[int]:
    counts = [0] * (len(_BOUNDS) + 1)
    for value in values:
        counts[sum(bound < value for bound in _BOUNDS)] += 1
    return counts


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_values_stand_for_a_histogram(values: list[float]) -> None:
    counts = _buckets(values)
    stand_ins = list(spread(counts, sum(values), _BOUNDS))
    assert sum(value * count for value, count in stand_ins) == pytest.approx(sum(values), rel=1e-6, abs=1e-6)
    edges = (0.0, *_BOUNDS, float("inf"))
    places = [(index, count) for index, count in enumerate(counts) if count]
    assert [count for _, count in stand_ins] == [count for _, count in places]
    for (value, _), (index, _) in zip(stand_ins, places, strict=True):
        assert edges[index] <= value * (1 + 1e-9) + 1e-9
        assert value <= edges[index + 1] * (1 + 1e-9)


@given(st.floats(0, 1e6))
def test_a_value_that_is_alone_is_told_exactly(value: float) -> None:
    ((told, count),) = spread(_buckets([value]), value, _BOUNDS)
    assert told == pytest.approx(value)
    assert count == 1


@given(st.lists(st.text("abc:1|", min_size=1, max_size=2_000), max_size=40))
def test_packets_hold_all_lines_and_are_small(lines: list[str]) -> None:
    made = list(packets(lines))
    assert all(0 < len(packet) <= MAX_PACKET for packet in made)
    assert b"\n".join(made).decode().split("\n") == (
        [line for line in lines if len(line) <= MAX_PACKET] or [""]
    )
