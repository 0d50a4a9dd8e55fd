"""What becomes of the payloads of requests to a real mesh."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from click.testing import CliRunner, Result
from prometheus_client.metrics_core import Metric

from mesh.cli import main
from mesh.instance import Settings
from mesh.instance.settings import PayloadSettings
from mesh.payload import Options, Payload, PlainPayload
from mesh.protos import payloads_pb2, payloads_pb2_grpc
from tests.instance.meshes import Client, Mesh, eventually
from tests.payload.sink_server import SinkServer

CALL = "test.Echo/Call"


class Kept:
    """The processor of ``kept:``, for this process: keeps payloads where tests find them, by its URI's path.

    Of the options, ``hold`` keeps the data plane's own objects, ``block`` blocks the thread until `release` is set.
    """

    found: ClassVar[dict[str, list[Payload]]] = {}
    release: ClassVar[threading.Event] = threading.Event()

    def __init__(self, uri: str, options: Options) -> None:
        if why := options.members.get("broken"):
            raise RuntimeError(why)
        self._into = self.found.setdefault(uri.partition(":")[2].partition("?")[0], [])
        self._options = options

    async def process(self, batch: Sequence[Payload]) -> None:
        if self._options.members.get("block"):
            # As a careless processor does, which waits without `await`.
            self.release.wait(60)
        await asyncio.sleep(self._options.members.get("hang", 0))
        held = self._options.members.get("hold")
        self._into.extend(batch if held else map(PlainPayload.of, batch))

    async def close(self, timeout_s: float) -> None:
        """Nothing to close."""

    def collect(self) -> Sequence[Metric]:
        return ()


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Payload]]]:
    info = tmp_path / "kept-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kept\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mesh.payload]\nkept = {__name__}:Kept\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Kept.found
    Kept.found.clear()
    Kept.release.clear()


def _processors(string: str = "", **settings: Any) -> dict[str, Any]:
    return {"payloads": PayloadSettings(processors=string, **{"capacity": 1_000} | settings)}


def _payloads(client: Client) -> payloads_pb2_grpc.PayloadsStub:
    stub: payloads_pb2_grpc.PayloadsStub = payloads_pb2_grpc.PayloadsStub(client.channel)
    return stub


async def _set(client: Client, name: str, **definition: Any) -> None:
    request = payloads_pb2.SetProcessorRequest(name=name, definition=json.dumps(definition))
    await _payloads(client).Set(request, timeout=10)


async def _listed(client: Client) -> dict[str, payloads_pb2.Processor]:
    reply = await _payloads(client).List(payloads_pb2.ListProcessorsRequest(), timeout=10)
    return {processor.name: processor for processor in reply.processors}


async def test_a_call_leaves_its_request_and_its_response(mesh: Mesh, kept: dict[str, list[Payload]]) -> None:
    client = await mesh.add(**_processors("kept:all"))
    await client.register("m", load=True, sync=True)
    call: Any = client.channel.unary_unary(f"/{CALL}")
    metadata = (("mm-model-id", "m"), ("x-a", "1"), ("x-a", "2"), ("x-bin", b"\x00\xff"))
    answer = await call(b"question", metadata=metadata, timeout=10)
    await eventually(lambda: len(kept["all"]) == 2)
    request, response = kept["all"]
    assert (request.kind, request.status, request.data) == ("request", None, b"question")
    assert (response.kind, response.status, response.data) == ("response", "OK", answer)
    assert request.id == response.id
    assert re.fullmatch(r"[0-9a-f]{16}-\d+", request.id)
    assert {(one.model_id, one.vmodel_id, one.method, one.sequence) for one in kept["all"]} == {
        ("m", "", CALL, 0)
    }
    assert [pair for pair in request.metadata if pair[0].startswith("x-")] == [
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-bin", b"\x00\xff"),
    ]
    assert ("content-type", "application/grpc") in response.metadata
    assert request.time <= response.time


async def test_payloads_are_of_the_instance_that_the_client_asked_and_name_the_vmodel(
    mesh: Mesh, kept: dict[str, list[Payload]]
) -> None:
    serving = await mesh.add(**_processors("kept:serving"))
    router = await mesh.add(
        router=True, **_processors("kept:router?v kept:model?/m kept:other?x kept:method?v#no.Such/Call")
    )
    await mesh.settle()
    await serving.register("m", load=True, sync=True)
    await serving.set_vmodel("v", "m")
    await eventually(lambda: "v" in mesh.instances[1].registry.vmodels)
    await router.infer_vmodel("v", b"1")
    await router.infer("m", b"2")
    await eventually(lambda: len(kept["model"]) == 4 and len(kept["router"]) == 2)
    assert [(one.model_id, one.vmodel_id, one.kind) for one in kept["router"]] == [
        ("m", "v", "request"),
        ("m", "v", "response"),
    ]
    assert {one.vmodel_id for one in kept["model"]} == {"", "v"}
    assert kept["serving"] == kept["other"] == kept["method"] == []


async def test_failures_leave_a_response_without_a_message(
    mesh: Mesh, kept: dict[str, list[Payload]]
) -> None:
    client = await mesh.add(**_processors("kept:all"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.infer("nobody", b"question")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await client.register("m", load=True, sync=True)
    with pytest.raises(grpc.aio.AioRpcError):
        await client.infer_several(["m", "nobody"], b"both", required="all")
    await eventually(lambda: len(kept["all"]) == 4)
    assert [(one.kind, one.model_id, one.status, one.data) for one in kept["all"]] == [
        ("request", "nobody", None, b"question"),
        ("response", "nobody", "NOT_FOUND", None),
        ("request", "", None, b"both"),
        ("response", "", "NOT_FOUND", None),
    ]


async def test_management_and_health_leave_nothing(mesh: Mesh, kept: dict[str, list[Payload]]) -> None:
    client = await mesh.add(**_processors("kept:all"))
    await client.register("m", load=True, sync=True)
    await client.status("m")
    await client.infer("m")
    await eventually(lambda: len(kept["all"]) == 2)
    assert {one.method for one in kept["all"]} == {CALL}


async def test_large_messages_are_views_and_compressed_ones_are_plain(
    mesh: Mesh, kept: dict[str, list[Payload]]
) -> None:
    client = await mesh.add(**_processors())
    await client.register("m", load=True, sync=True)
    await _set(client, "held", uri="kept:held", options={"hold": True})
    await _applied(mesh, "held")
    sizes = [0, 1, 4_000, 5_000, 60_000, 3 << 20]
    for size in sizes:
        await client.infer("m", b"x" * size)
    call: Any = client.channel.unary_unary(f"/{CALL}")
    await call(b"y" * 9_000, metadata=(("mm-model-id", "m"),), timeout=10, compression=grpc.Compression.Gzip)
    await eventually(lambda: len(kept["held"]) == 2 * len(sizes) + 2)
    requests = [one for one in kept["held"] if one.kind == "request"]
    assert [one.size for one in requests] == [*sizes, 9_000]
    assert [bytes(one.data or b"") for one in requests] == [*(b"x" * size for size in sizes), b"y" * 9_000]
    assert isinstance(requests[4].data, memoryview)
    assert requests[4].data.readonly
    dataplane = mesh.instances[0].parts.dataplane
    assert dataplane.totals().payload_bytes > 2 * (3 << 20)
    # A view keeps its memory, and the memory is counted, when all else has gone.
    view = requests[4].data
    held = kept.pop("held")
    held.clear()
    del requests, held
    await eventually(lambda: 60_000 <= dataplane.totals().payload_bytes < 200_000)
    assert bytes(view) == b"x" * 60_000
    del view
    await eventually(lambda: dataplane.totals().payload_bytes == 0)


async def test_each_message_of_a_stream_is_a_payload(mesh: Mesh, kept: dict[str, list[Payload]]) -> None:
    client = await mesh.add(**_processors("kept:all"))
    await client.register("m", load=True, sync=True)
    stream = client.open_stream("m")
    answers = []
    for number in range(3):
        await stream.write(str(number).encode())
        answers.append(await stream.read())
    assert not kept["all"]
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    await eventually(lambda: len(kept["all"]) == 6)
    assert [(one.kind, one.sequence, one.data) for one in kept["all"]] == [
        *(("request", number, str(number).encode()) for number in range(3)),
        *(("response", number, answer) for number, answer in enumerate(answers)),
    ]


async def _applied(mesh: Mesh, name: str, *, working: bool = True) -> None:
    """Awaits that each instance has a processor, or has it not any more."""
    await eventually(
        lambda: all((name in one.parts.payloads.statuses()) is working for one in mesh.instances)
    )


async def test_processors_change_while_the_mesh_runs(mesh: Mesh, kept: dict[str, list[Payload]]) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    await clients[0].register("other", load=True, sync=True)
    await clients[0].infer("m", b"before")
    await _set(clients[0], "audit", uri="kept:audit", models=["m"])
    await _applied(mesh, "audit")
    for client in clients:
        await client.infer("m", b"1")
        await client.infer("other", b"2")
    await eventually(lambda: len(kept["audit"]) == 4)
    assert {one.model_id for one in kept["audit"]} == {"m"}
    assert {one.data for one in kept["audit"] if one.kind == "request"} == {b"1"}
    assert len({one.id.partition("-")[0] for one in kept["audit"]}) == 2
    # The same processor with another filter.
    await _set(clients[1], "audit", uri="kept:audit", models=["other"], sample=0.5)
    await eventually(
        lambda: '"other"' in mesh.instances[0].registry.config.get("payload_processors/audit", "")
    )
    await asyncio.sleep(0.1)
    for _ in range(100):
        await clients[0].infer("other", b"2")
    await eventually(lambda: len(kept["audit"]) > 4)
    listed = (await _listed(clients[0]))["audit"]
    assert (listed.origin, listed.working, listed.trouble) == ("registry", True, "")
    await _payloads(clients[0]).Remove(payloads_pb2.RemoveProcessorRequest(name="audit"), timeout=10)
    await _applied(mesh, "audit", working=False)
    # What waited for it then, it still gets.
    await asyncio.sleep(0.3)
    sampled = len(kept["audit"]) - 4
    assert 2 * 20 < sampled < 2 * 80
    await clients[0].infer("other", b"3")
    await asyncio.sleep(0.2)
    assert len(kept["audit"]) == 4 + sampled
    assert not await _listed(clients[1])


@pytest.mark.parametrize(
    ("name", "definition", "why"),
    [
        ("Audit", {"uri": "kept:x"}, "'Audit' cannot be the name"),
        ("audit", {"uri": "nothing:x"}, "knows the scheme 'nothing'; there are .*http, https"),
        ("audit", {"uri": "kept:x", "sample": 2}, "sample"),
        ("audit", {"uri": "http://h/", "options": {"no": 1}}, "'audit': options.no is not known"),
        ("audit", {"uri": "kept:x", "options": {"broken": "a bug"}}, "'audit' could not be opened: .*a bug"),
    ],
)
async def test_a_processor_that_cannot_be_is_refused(
    mesh: Mesh, name: str, definition: dict[str, Any], why: str
) -> None:
    client = await mesh.add()
    with pytest.raises(grpc.aio.AioRpcError, match=why) as caught:
        await _set(client, name, **definition)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError, match="no payload processor") as caught:
        await _payloads(client).Remove(payloads_pb2.RemoveProcessorRequest(name="audit"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert not await _listed(client)


async def test_what_the_string_gets_wrong_is_told_and_the_rest_is_used(
    mesh: Mesh, kept: dict[str, list[Payload]], caplog: pytest.LogCaptureFixture
) -> None:
    client = await mesh.add(**_processors("nothing://x kept:all"))
    assert "env-1 is not used" in caplog.text
    assert "'nothing'; there are" in caplog.text
    listed = await _listed(client)
    assert [(one.working, one.origin) for one in listed.values()] == [
        (False, "environment"),
        (True, "environment"),
    ]
    await client.register("m", load=True, sync=True)
    await client.infer("m")
    await eventually(lambda: len(kept["all"]) == 2)


async def test_a_file_of_processors_is_followed(
    mesh: Mesh, kept: dict[str, list[Payload]], tmp_path: Path
) -> None:
    path = tmp_path / "processors.json"
    path.write_text(json.dumps({"one": {"uri": "kept:one?own=query"}}))
    client = await mesh.add(**_processors(file=str(path)))
    await client.register("m", load=True, sync=True)
    await client.infer("m")
    await eventually(lambda: len(kept["one"]) == 2)
    path.write_text(json.dumps({"two": {"uri": "kept:two"}}))
    await _applied(mesh, "two")
    await client.infer("m")
    await eventually(lambda: len(kept["two"]) == 2)
    assert len(kept["one"]) == 2
    assert set(await _listed(client)) == {"two"}


async def test_a_hanging_processor_loses_its_own_and_nobody_elses(
    mesh: Mesh, kept: dict[str, list[Payload]]
) -> None:
    async with SinkServer() as receiver:
        receiver.hangs = True
        client = await mesh.add(**_processors(f"kept:all {receiver.uri}", capacity=64, flush_ms=300))
        await client.register("m", load=True, sync=True)
        for _ in range(10):
            await asyncio.gather(*(client.infer("m") for _ in range(20)))
            await asyncio.sleep(0.06)
        await eventually(lambda: len(kept["all"]) == 400)
        listed = await _listed(client)
        assert listed["env-1"].lost["queue_full"] == 0
        lost = listed["env-2"]
        assert lost.delivered == 0
        assert lost.lost["queue_full"] + lost.waiting + lost.in_flight == 400


async def test_a_processor_that_blocks_its_thread_holds_up_no_request(
    mesh: Mesh, kept: dict[str, list[Payload]]
) -> None:
    client = await mesh.add(**_processors())
    await _set(client, "careless", uri="kept:careless", options={"block": True})
    await _applied(mesh, "careless")
    await client.register("m", load=True, sync=True)
    await client.infer("m")
    await asyncio.sleep(0.2)
    await client.register("n", load=True, sync=True)
    await client.infer("n")
    assert not kept["careless"]
    Kept.release.set()
    await eventually(lambda: len(kept["careless"]) == 4)


async def test_bytes_are_bounded_and_what_has_no_room_is_counted(
    mesh: Mesh, kept: dict[str, list[Payload]]
) -> None:
    client = await mesh.add(**_processors(max_bytes=1 << 20))
    await client.register("m", load=True, sync=True)
    await _set(client, "held", uri="kept:held", options={"hold": True})
    await _applied(mesh, "held")
    for _ in range(10):
        assert await client.infer("m", b"x" * 300_000)
    await eventually(lambda: _settled(mesh, "held", kept["held"], 20))
    status = mesh.instances[0].parts.payloads.statuses()["held"]
    assert status.lost["bytes"] > 0
    assert mesh.instances[0].parts.dataplane.totals().payload_bytes <= 1 << 20
    kept["held"].clear()


def _settled(mesh: Mesh, name: str, kept: list[Payload], payloads: int) -> bool:
    status = mesh.instances[0].parts.payloads.statuses()[name]
    return sum(status.lost.values()) + len(kept) == payloads


async def test_an_end_flushes_and_counts_the_rest(
    mesh: Mesh, kept: dict[str, list[Payload]], caplog: pytest.LogCaptureFixture
) -> None:
    client = await mesh.add(**_processors("kept:all", flush_ms=2_000))
    await _set(client, "slow", uri="kept:slow", batch_size=2, options={"hang": 3_600})
    await _applied(mesh, "slow")
    await client.register("m", load=True, sync=True)
    for _ in range(50):
        await client.infer("m")
    began = asyncio.get_running_loop().time()
    payloads = mesh.instances[0].parts.payloads
    await mesh.instances[0].close()
    assert asyncio.get_running_loop().time() - began < 15
    assert len(kept["all"]) == 100
    assert not kept["slow"]
    assert "payload processor slow lost 100 payloads in the last minute (shutdown 100)" in caplog.text
    counted = {
        (sample.labels["processor"], sample.labels.get("reason", "")): sample.value
        for family in payloads.collect()
        for sample in family.samples
        if sample.name in {"modelmesh_payload_lost", "modelmesh_payload_delivered"}
    }
    assert counted["slow", "shutdown"] == 100
    assert counted["env-1", ""] == 100


async def test_payloads_reach_a_web_server_as_those_of_modelmesh_do(mesh: Mesh) -> None:
    async with SinkServer() as receiver:
        client = await mesh.add(**_processors(f"{receiver.uri}?v#{CALL}"))
        await client.register("m", load=True, sync=True)
        await client.set_vmodel("v", "m")
        await client.infer_vmodel("v", b"question")
        await eventually(lambda: len(receiver.payloads) == 2)
        await asyncio.sleep(0)
        request = next(one for one in receiver.payloads if one["kind"] == "request")
        assert list(request) == ["id", "modelid", "vModelId", "data", "kind", "status", "metadata", "method"]
        assert (request["modelid"], request["vModelId"], request["method"]) == ("m", "v", CALL)
        assert request["metadata"]["mm-vmodel-id"] == "v"
        assert {one.raw_path for one in receiver.requests} == {"/sink?v"}


async def test_people_see_and_change_processors_by_the_command(
    mesh: Mesh, kept: dict[str, list[Payload]]
) -> None:
    client = await mesh.add(**_processors("nothing://x"))
    await client.register("m", load=True, sync=True)

    async def run(*arguments: str) -> Result:
        command = ["payloads", *arguments, "--address", client.address]
        return await asyncio.to_thread(CliRunner().invoke, main, command)

    filters = ("--model", "m", "--method", CALL, "--sample", "100%", "--member", "batch_size=7")
    done = await run("set", "audit", "kept:audit?password=x", *filters, "--option", "hold=false")
    assert done.exit_code == 0, done.output
    await _applied(mesh, "audit")
    await client.infer("m")
    await eventually(lambda: len(kept["audit"]) == 2)
    await eventually(lambda: mesh.instances[0].parts.payloads.statuses()["audit"].delivered == 2)
    shown = (await run("list")).output
    assert re.search(rf"audit +registry +kept:audit\S* +m; {CALL} +2 +0 +0", shown), shown
    assert re.search(r"env-1 +environment +nothing://x .*there are ", shown), shown
    listed = {one["name"]: one for one in json.loads((await run("--json")).output)["processors"]}
    assert listed["audit"]["definition"]["batch_size"] == 7
    assert listed["audit"]["definition"]["options"] == {"hold": False}
    refused = await run("set", "audit", "kept:audit", "--member", "batchsize=7")
    assert refused.exit_code == 1
    assert "unknown field `batchsize`; there are uri, models" in refused.output
    assert (await run("remove", "audit")).exit_code == 0
    assert "no payload processor 'audit'" in (await run("remove", "audit")).output


def test_settings_are_those_of_modelmesh() -> None:
    environment = {
        "MM_SERVICE_NAME": "tests",
        "KV_STORE": "memory:",
        "MM_PAYLOAD_PROCESSORS": "logger:///?m http://h/",
        "MM_PAYLOAD_PROCESSORS_THREADS": "3",
        "MM_PAYLOAD_PROCESSORS_CAPACITY": "100",
    }
    payloads = Settings.from_environment(environment).payloads
    assert (payloads.processors, payloads.consumers, payloads.capacity) == ("logger:///?m http://h/", 3, 100)
    defaults = PayloadSettings()
    assert (defaults.processors, defaults.consumers, defaults.capacity) == ("", 2, 64)
