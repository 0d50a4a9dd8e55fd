"""Requests that name several models."""

import grpc
import pytest

from tests.instance.meshes import Mesh, eventually


async def test_models_are_loaded_for_a_request_that_names_several(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    models = [f"m{number}" for number in range(6)]
    for model_id in models:
        await clients[0].register(model_id)
    await eventually(lambda: all(models[-1] in instance.registry.models for instance in mesh.instances))
    everything = b"".join(model_id.encode() + b":q" for model_id in models)
    for client in clients:
        assert await client.infer_several(models, b"q", required="all") == everything
    assert {mesh.loads(model_id) for model_id in models} == {1}
    assert all(runtime.loaded for runtime in mesh.runtimes), "the models spread"


async def test_what_is_not_registered_is_left_out_or_named(mesh: Mesh) -> None:
    client = await mesh.add()
    await client.register("m")
    await client.register("n")
    assert await client.infer_several(["nobody", "n", "m"], b"q") == b"n:qm:q"
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await client.infer_several(["n", "nobody", "m"], required="all")
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND
    assert missing.value.details() == "model not found"
    details = dict(missing.value.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    assert b"nobody" in details
    with pytest.raises(grpc.aio.AioRpcError) as none:
        await client.infer_several(["nobody", "either"])
    assert none.value.code() == grpc.StatusCode.NOT_FOUND
    assert none.value.details() == "none of the requested models were found"


async def test_a_model_that_cannot_be_loaded_fails_the_request(mesh: Mesh) -> None:
    client = await mesh.add()
    mesh.runtimes[0].refuse["broken"] = (grpc.StatusCode.INVALID_ARGUMENT, "not a model")
    for model_id in ("m", "broken"):
        await client.register(model_id)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await client.infer_several(["m", "broken"])
    assert "not a model" in str(failed.value.details())
    assert await client.infer_several(["m", "m"]) == b"m:xm:x"
