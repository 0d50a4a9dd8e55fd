"""The management API as existing clients know it."""

from typing import Any

import grpc
import pytest

from mesh.protos import model_mesh_pb2 as api
from tests.instance.meshes import Client, Mesh, eventually

Status = api.ModelStatusInfo


def _register(client: Client, **fields: object) -> object:
    return client.management.registerModel(api.RegisterModelRequest(**fields), timeout=10)  # type: ignore[arg-type]


async def test_registering_is_idempotent_and_guards_attributes(mesh: Mesh) -> None:
    client = await mesh.add()
    assert (await client.register("m", path="p", key="k")).status == Status.NOT_LOADED
    assert (await client.register("m", path="p", key="k")).status == Status.NOT_LOADED
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.register("m", path="other", key="k")
    assert error.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert error.value.details() == "Model already exists with different attribute values"


async def test_registering_with_a_synchronous_load_reports_the_copy(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    reply = await clients[0].register("m", load=True, sync=True)
    assert reply.status == Status.LOADED
    assert [info.copyStatus for info in reply.modelCopyInfos] == [Status.LOADED]
    assert reply.modelCopyInfos[0].location in {i.settings.instance_id for i in mesh.instances}
    assert (await clients[1].status("m")).status == Status.LOADED


async def test_an_unknown_model_has_a_status_and_cannot_be_loaded(mesh: Mesh) -> None:
    client = await mesh.add()
    assert (await client.status("nobody")).status == Status.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.ensure_loaded("nobody")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert error.value.details() == "model not found"


async def test_loading_in_the_background_ends_loaded(mesh: Mesh) -> None:
    client = await mesh.add()
    mesh.runtimes[0].load_delay_s = 0.2
    await client.register("m")
    assert (await client.ensure_loaded("m", sync=False)).status in {Status.LOADING, Status.NOT_LOADED}

    async def loaded() -> bool:
        return (await client.status("m")).status == Status.LOADED

    await eventually(loaded)
    assert (await client.ensure_loaded("m")).status == Status.LOADED
    assert mesh.loads("m") == 1


async def test_unregistering_unloads_everywhere(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    await clients[1].unregister("m")
    await clients[1].unregister("m")
    await eventually(lambda: all("m" not in runtime.loaded for runtime in mesh.runtimes))
    assert (await clients[0].status("m")).status == Status.NOT_FOUND

    async def gone() -> bool:
        try:
            await clients[0].infer("m")
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.NOT_FOUND
        return False

    await eventually(gone)


async def test_a_failed_load_is_a_status_with_the_reason(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    for runtime in mesh.runtimes:
        runtime.refuse["m"] = (grpc.StatusCode.INVALID_ARGUMENT, "the file is broken")
    reply = await clients[0].register("m", load=True, sync=True)
    assert reply.status == Status.LOADING_FAILED
    assert any("the file is broken" in message for message in reply.errors)
    later = await clients[1].status("m")
    assert later.status == Status.LOADING_FAILED
    assert {info.copyStatus for info in later.modelCopyInfos} == {Status.LOADING_FAILED}
    assert len(later.modelCopyInfos) == 2, "it was tried on both"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modelId": "", "modelInfo": api.ModelInfo(type="t")}, "must provide non-empty modelId"),
        ({"modelId": "m"}, "Must provide non-empty model type string"),
    ],
)
async def test_bad_requests_are_refused(mesh: Mesh, fields: dict[str, object], message: str) -> None:
    client = await mesh.add()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await _register(client, **fields)  # type: ignore[misc]
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == message


@pytest.mark.parametrize(
    ("method", "request_message", "reply_type"),
    [
        (
            "/mmesh.ModelMesh/addModel",
            api.RegisterModelRequest(modelId="m", modelInfo=api.ModelInfo(type="t")),
            Status,
        ),
        (
            "/com.ibm.watson.tas.proto.TasRuntime/addModel",
            api.RegisterModelRequest(modelId="m", modelInfo=api.ModelInfo(type="t")),
            Status,
        ),
        (
            "/com.ibm.watson.tas.proto.TasRuntime/deleteModel",
            api.UnregisterModelRequest(modelId="m"),
            api.UnregisterModelResponse,
        ),
        ("/com.ibm.watson.tas.proto.TasRuntime/getModelStatus", api.GetStatusRequest(modelId="m"), Status),
    ],
)
async def test_old_names_work(mesh: Mesh, method: str, request_message: object, reply_type: type) -> None:
    client = await mesh.add()
    call: Any = client.channel.unary_unary(
        method,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=reply_type.FromString,  # type: ignore[attr-defined]
    )
    assert isinstance(await call(request_message, timeout=10), reply_type)
