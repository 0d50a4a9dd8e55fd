"""Promises to who follows a request through the mesh, with a client and a collector that OpenTelemetry's users have."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mesh.protos import inference_pb2 as pb
from mesh.protos.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.pods import BUCKET, ROOT, Pod, Pods, SocketServer, Storage
from tests.e2e.users import User
from tests.servers.traces import ReceivedSpan, Traces, tree

pytestmark = pytest.mark.timeout(300)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT_SPAN = "00f067aa0ba902b7"
STREAM = "0af7651916cd43dd8448eb211c80319c"
METHODS = "inference.GRPCInferenceService/"
METHOD = METHODS + "ModelInfer"
STREAMED = [METHODS + "ModelStreamInfer", "mesh.runtime"]
LOAD = "mesh.peer.v1.Peer/Load"
SPI = "mmesh.ModelRuntime/"
#: The puller asks again once it knows the size in storage.
SIZED = ["mesh.size", SPI + "predictModelSize", SPI + "predictModelSize"]


@pytest.fixture
async def traces() -> AsyncIterator[Traces]:
    async with Traces() as started:
        yield started


@pytest.fixture
def mesh(make_pods: Pods, traces: Traces) -> Iterator[list[Pod]]:
    """A pure router that speaks HTTP with the collector, and two pods that speak gRPC with it."""

    def server(folder: Path) -> SocketServer:
        # A router takes models of unknown size for 1 MiB large.
        return SocketServer([str(ROOT / "tests" / "e2e" / "traced_runtime.py")], "64MiB", folder)

    common = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue"}
    over_http = {**common, "OTEL_EXPORTER_OTLP_ENDPOINT": traces.http_url}
    over_grpc = {
        **common,
        "OTEL_EXPORTER_OTLP_ENDPOINT": traces.grpc_url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_SERVICE_NAME": "inference",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    with make_pods.running(None, server, server, environments=[over_http, over_grpc, over_grpc]) as running:
        yield running


async def test_a_cold_request_is_one_trace_from_its_client_to_the_model_server(
    mesh: list[Pod], traces: Traces, storage: Storage
) -> None:
    storage.s3.put(BUCKET, {"traced/weights": b"1"})
    async with User(mesh[0]) as user:
        await user.register("traced", "traced", "traced/weights")
        stub = GRPCInferenceServiceStub(user.channel)
        metadata = (
            ("mm-model-id", "traced"),
            ("traceparent", f"00-{TRACE}-{CLIENT_SPAN}-01"),
            ("tracestate", "vendor=1"),
        )
        request = pb.ModelInferRequest(model_name="traced")
        answer = await stub.ModelInfer(request, metadata=metadata, timeout=60)
        spans = await traces.wait_for(TRACE, has_come)
        other = (("mm-model-id", "traced"), ("traceparent", f"00-{STREAM}-{CLIENT_SPAN}-01"))
        stream = stub.ModelStreamInfer(iter([request, request]), metadata=other, timeout=60)
        streamed = [part.infer_response async for part in stream]
        stream_spans = await traces.wait_for(STREAM, has_come)

    # How often the registry was written to is its own affair.
    told = [span for span in spans if span.name != "etcdserverpb.KV/Txn"]
    load = ["mesh.load", SIZED, "mesh.load.queue", ["mesh.load.server", "mesh.pull", SPI + "loadModel"]]
    assert tree(told, CLIENT_SPAN) == [
        [
            METHOD,
            ["mesh.miss", "mesh.place", [LOAD, [LOAD, load]]],
            ["mesh.forward", [METHOD, "mesh.runtime"]],
        ]
    ]
    first = {span.name: span for span in reversed(spans)}
    last = {span.name: span for span in spans}
    owner = first["mesh.place"].attributes["mesh.place.chosen"]
    assert owner in {pod.instance.instance_id for pod in mesh[1:]}
    assert {span.instance for span in told} == {mesh[0].instance.instance_id, owner}
    assert {span.instance for span in told if "load" in span.name.lower() and span.kind != "CLIENT"} == {
        owner
    }
    assert first[METHOD].attributes == {
        "mesh.model.id": "traced",
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.response.status_code": "OK",
    }
    assert (first["mesh.forward"].attributes["mesh.peer"], last[METHOD].attributes["mesh.from_peer"]) == (
        owner,
        True,
    )
    assert first["mesh.load"].attributes["mesh.model.bytes"] == 8_192
    assert not [span for span in spans if span.failed]
    assert tree(stream_spans, CLIENT_SPAN) == [[METHODS + "ModelStreamInfer", ["mesh.forward", STREAMED]]]

    # The model server was told to go on with the trace, as a child of the call that it got.
    for response, of_runtime in ((answer, last["mesh.runtime"]), (streamed[-1], stream_spans[-1])):
        sent = {output.name: output.contents.bytes_contents[0].decode() for output in response.outputs}
        assert sent["traceparent"] == f"00-{of_runtime.trace_id}-{of_runtime.span_id}-01"
        assert sent.get("tracestate", "") == last[METHOD].state * (response is answer)

    # Names and attributes of processes are the environment's where it has them.
    assert first[METHOD].resource["service.name"].startswith("mesh-")
    assert last[METHOD].resource["service.name"] == "inference"
    assert last[METHOD].resource["deployment.environment.name"] == "test"
    assert traces.headers["x-team"] == "blue"


def has_come(spans: list[ReceivedSpan]) -> bool:
    """Each process sends its spans in its own time; those that others hang on come from both."""
    return {span.parent_id for span in spans} <= {span.span_id for span in spans} | {CLIENT_SPAN} and (
        "mesh.runtime" in {span.name for span in spans}
    )
