"""Requests find a copy, from any instance, also where there is none yet."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mesh.protos import inference_pb2, inference_pb2_grpc
from mesh.registry import VModelRecord
from tests.instance.meshes import Mesh, eventually
from tests.instance.scripted_runtime import MIB, ScriptedRuntime


async def test_a_first_request_loads_its_model(mesh: Mesh) -> None:
    client = await mesh.add()
    await client.register("m")
    assert await client.infer("m", b"hello") == b"m:hello"
    assert mesh.loads("m") == 1
    assert await client.infer("m", b"again") == b"m:again"
    assert mesh.loads("m") == 1


async def test_any_instance_serves_any_model(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(3)]
    await mesh.settle()
    for number in range(30):
        await clients[number % 3].register(f"m{number}")
    for client in clients:
        for number in range(30):
            assert await client.infer(f"m{number}", b"q") == f"m{number}:q".encode()
    assert all(mesh.loads(f"m{number}") == 1 for number in range(30))
    assert all(len(runtime.loaded) >= 2 for runtime in mesh.runtimes), "the models spread"


async def test_many_first_requests_share_one_load(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(3)]
    await mesh.settle()
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 0.3
    await clients[0].register("m")
    await eventually(lambda: all("m" in instance.registry.models for instance in mesh.instances))
    replies = await asyncio.gather(*(clients[n % 3].infer("m", str(n).encode()) for n in range(1_000)))
    assert replies == [f"m:{n}".encode() for n in range(1_000)]
    assert mesh.loads("m") == 1


async def test_a_burst_of_cold_models_spreads(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(4)]
    await mesh.settle()
    models = [f"m{number}" for number in range(80)]
    await asyncio.gather(*(clients[0].register(model) for model in models))
    await asyncio.gather(*(clients[0].infer(model) for model in models))
    counts = [len(runtime.loaded) for runtime in mesh.runtimes]
    assert sum(counts) == 80
    assert max(counts) <= 26, counts
    assert min(counts) >= 14, counts


async def test_more_models_than_fit_come_and_go(mesh: Mesh) -> None:
    clients = [
        await mesh.add(ScriptedRuntime(mesh.socket(), capacity=32 * MIB, size=3 * MIB)) for _ in range(2)
    ]
    await mesh.settle()
    models = [f"m{number}" for number in range(40)]
    for model in models:
        await clients[0].register(model)
    for _ in range(2):
        for model in models:
            assert await clients[0].infer(model) == f"{model}:x".encode()
    assert sum(mesh.runtimes[0].unloads.values()) > 0
    await eventually(
        lambda: all(len(runtime.loaded) * 3 * MIB <= runtime.capacity for runtime in mesh.runtimes)
    )
    first = await clients[1].describe(models[-1])
    assert len(first.copies) == 1


async def test_the_least_recently_used_model_leaves(mesh: Mesh) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), capacity=30 * MIB, size=6 * MIB))
    for model in ("a", "b", "c", "d", "e"):
        await client.register(model)
    for model in ("a", "b", "c"):
        await client.infer(model)
    await client.infer("a")
    await client.infer("d")
    await client.infer("e")
    await eventually(lambda: "b" not in mesh.runtimes[0].loaded)
    assert "a" in mesh.runtimes[0].loaded
    decisions = await client.explain("b")
    evicted = next(decision for decision in decisions if decision.kind == "eviction")
    assert evicted.related_models
    assert "to make room for" in evicted.summary


async def test_an_open_stream_keeps_its_copy(mesh: Mesh) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), capacity=30 * MIB, size=6 * MIB))
    for number in range(12):
        await client.register(f"m{number}")
    stream = client.open_stream("m0")
    await stream.write(b"one")
    assert await stream.read() == b"m0:one"
    for number in range(1, 12):
        await client.infer(f"m{number}")
    assert "m0" in mesh.runtimes[0].loaded
    await stream.write(b"two")
    assert await stream.read() == b"m0:two"
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_a_router_without_a_model_server_forwards(mesh: Mesh) -> None:
    await mesh.add()
    router = await mesh.add(router=True)
    await mesh.settle()
    await router.register("m")
    assert await router.infer("m") == b"m:x"


async def test_a_request_waits_a_moment_for_an_instance_that_can_load(mesh: Mesh) -> None:
    router = await mesh.add(router=True)
    await router.register("m")
    asked = asyncio.create_task(router.infer("m"))
    await asyncio.sleep(0.3)
    await mesh.add()
    assert await asked == b"m:x"


async def test_requests_wait_for_a_load_on_another_instance(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 0.5
    await clients[0].register("m", load=True)
    replies = await asyncio.gather(*(client.infer("m") for client in clients for _ in range(5)))
    assert replies == [b"m:x"] * 10
    assert mesh.loads("m") == 1


async def test_concurrency_is_limited_per_copy(mesh: Mesh) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), limit_concurrency=2), max_queued_per_copy=10)
    await client.register("m", load=True, sync=True)
    mesh.runtimes[0].call_delay_s = 0.05
    results = await asyncio.gather(*(client.infer("m") for _ in range(30)), return_exceptions=True)
    served = [result for result in results if result == b"m:x"]
    refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert mesh.runtimes[0].most_running["m"] <= 2
    assert len(served) >= 10
    assert refused
    assert all(error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED for error in refused)
    assert all("Model queue overload" in str(error.details()) for error in refused)


@pytest.mark.parametrize("metadata", [(), (("mm-model-id", ""),)])
async def test_a_request_must_name_a_model(mesh: Mesh, metadata: tuple[tuple[str, str], ...]) -> None:
    client = await mesh.add()
    call: Any = client.channel.unary_unary("/test.Echo/Call")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"x", metadata=metadata, timeout=5)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_model_is_not_found(mesh: Mesh) -> None:
    client = await mesh.add()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.infer("nobody")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert error.value.details() == "model not found"


async def test_a_vmodel_of_the_registry_leads_to_its_active_model(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    for model in ("old", "new"):
        await clients[0].register(model)
    vmodels = mesh.instances[0].registry.vmodels
    await vmodels.update("v", lambda _: VModelRecord(active="old", target="old"))
    for client in clients:
        assert await client.infer_vmodel("v") == b"old:x"
    await vmodels.update("v", lambda _: VModelRecord(active="new", target="new"))
    for client in clients:
        await eventually(lambda client=client: _is(client.infer_vmodel("v"), b"new:x"))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await clients[0].infer_vmodel("nobody")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert error.value.details() == "vmodel not found"


async def _is(call: Awaitable[bytes], wanted: bytes) -> bool:
    return await call == wanted


async def test_health_and_server_questions_are_answered(mesh: Mesh) -> None:

    client = await mesh.add()
    health: Any = health_pb2_grpc.HealthStub(client.channel)
    assert (
        await health.Check(health_pb2.HealthCheckRequest())
    ).status == health_pb2.HealthCheckResponse.SERVING
    inference = inference_pb2_grpc.GRPCInferenceServiceStub(client.channel)
    assert (await inference.ServerReady(inference_pb2.ServerReadyRequest())).ready


async def test_reflection_lists_the_services(mesh: Mesh) -> None:
    client = await mesh.add()
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)  # type: ignore[arg-type]
    request_type: Any = reflection_pb2.ServerReflectionRequest
    request = request_type(list_services="")
    async for reply in stub.ServerReflectionInfo(iter([request])):
        names = {service.name for service in reply.list_services_response.service}
        assert {"mmesh.ModelMesh", "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
        break
