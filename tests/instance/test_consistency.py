"""The records of the registry, the copies of an instance and what its model server holds stay in step."""

import asyncio
import gc
import time
from typing import Any

import grpc
import pytest

from mesh.instance.joining import InstanceIdTaken
from mesh.protos import model_mesh_pb2 as api
from mesh.registry import ModelRecord
from mesh.runtimes import ModelInfo
from tests.instance.meshes import Mesh, eventually
from tests.instance.scripted_runtime import MIB, ScriptedRuntime

Status = api.ModelStatusInfo


def _record(mesh: Mesh, model_id: str, instance: int = 0) -> ModelRecord:
    return mesh.instances[instance].registry.models[model_id]


async def test_a_model_registered_anew_while_its_old_copy_unloads_is_the_new_one(mesh: Mesh) -> None:
    client = await mesh.add()
    runtime = mesh.runtimes[0]
    runtime.unload_delay_s = 0.5
    await client.register("m", path="old", load=True, sync=True)
    await client.unregister("m")
    await eventually(lambda: not mesh.instances[0].parts.loader.is_serving("m"))  # type: ignore[union-attr]
    await client.register("m", path="new")
    assert await client.infer("m") == b"m:x"
    assert runtime.paths == ["old", "new"]


async def test_models_that_are_gone_leave_nothing_behind(mesh: Mesh) -> None:
    client = await mesh.add()
    for number in range(5):
        await client.register(f"gone-{number}", load=True, sync=True)
    for number in range(5):
        await client.unregister(f"gone-{number}")
    await eventually(lambda: not mesh.runtimes[0].loaded)
    await eventually(
        lambda: (
            not any(
                isinstance(thing, ModelInfo) and thing.model_id.startswith("gone-")
                for thing in gc.get_objects()
            )
        )
    )


async def test_a_model_unregistered_while_it_loads_is_not_found(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 5.0
    await clients[0].register("m")
    requests = [asyncio.create_task(client.infer("m")) for client in clients]
    await eventually(lambda: mesh.loads("m") == 1)
    await clients[1].unregister("m")
    for request in requests:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await request
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        assert error.value.details() == "model not found"


async def test_a_copy_that_a_record_lost_is_entered_again(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    await eventually(lambda: _record(mesh, "m", 0).copies)
    (holder,) = _record(mesh, "m").copies
    await mesh.instances[0].registry.models.update(
        "m", lambda record: record.without_copy(holder) if record else None
    )
    await eventually(lambda: holder in _record(mesh, "m", 0).copies)
    assert mesh.loads("m") == 1


async def test_a_copy_that_a_record_lost_while_it_was_loading_is_entered_again(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 1.0
    await clients[0].register("m")
    request = asyncio.create_task(clients[0].infer("m"))
    await eventually(lambda: _record(mesh, "m", 0).copies)
    (holder,) = _record(mesh, "m").copies
    await mesh.instances[0].registry.models.update(
        "m", lambda record: record.without_copy(holder) if record else None
    )
    assert await request == b"m:x"
    await eventually(lambda: holder in _record(mesh, "m", 0).copies)
    assert mesh.loads("m") == 1


async def test_a_copy_that_only_a_record_knows_is_taken_out(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m")
    name = mesh.instances[1].settings.instance_id
    await mesh.instances[0].registry.models.update(
        "m", lambda record: record.with_copy(name, 1) if record else None
    )
    await eventually(lambda: not _record(mesh, "m", 0).copies)
    assert mesh.loads("m") == 0


async def test_a_record_that_became_another_model_unseen_has_its_copies_replaced(mesh: Mesh) -> None:
    # What an instance sees that was away while a model was deleted and another registered in its name.
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m", path="old", load=True, sync=True)
    await mesh.instances[0].registry.models.update("m", lambda _: ModelRecord(type="test", path="new"))
    await eventually(lambda: not any(runtime.loaded for runtime in mesh.runtimes))
    for client in clients:
        assert await client.infer("m") == b"m:x"
    assert sorted(path for runtime in mesh.runtimes for path in runtime.paths) == ["new", "old"]


async def test_a_background_load_is_told_to_be_under_way(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 0.3
    for number in range(4):
        reply = await clients[0].register(f"m{number}", load=True)
        assert reply.status == Status.LOADING
        assert (await clients[0].ensure_loaded(f"m{number}", sync=False)).status == Status.LOADING


async def test_a_request_moves_the_load_that_it_waits_for_ahead(mesh: Mesh) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), loading_concurrency=1))
    runtime = mesh.runtimes[0]
    runtime.load_delay_s = 0.1
    for number in range(20):
        await client.register(f"m{number}")
    for number in range(20):
        await client.ensure_loaded(f"m{number}", sync=False)
    await eventually(lambda: runtime.loads.total() > 0)
    last = next(f"m{number}" for number in range(20) if not runtime.loads[f"m{number}"])
    await client.infer(last)
    assert runtime.loads.total() < 10


async def test_loads_queued_for_a_server_that_dies_are_no_failures_of_their_models(mesh: Mesh) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), loading_concurrency=1))
    runtime = mesh.runtimes[0]
    runtime.load_delay_s = 5.0
    for number in range(5):
        await client.register(f"m{number}", load=True)
    await eventually(lambda: runtime.loads.total() == 1)
    (unlucky,) = runtime.loads
    await runtime.stop()
    await eventually(lambda: not any(_record(mesh, f"m{number}").copies for number in range(5)))
    failed = {f"m{number}" for number in range(5) if _record(mesh, f"m{number}").failures}
    assert failed <= {unlucky}
    runtime.load_delay_s = 0
    await runtime.start()
    for number in range(5):
        if f"m{number}" != unlucky:
            await eventually(lambda number=number: _loads(client, f"m{number}"))


async def _loads(client: Any, model_id: str) -> bool:
    return bool((await client.ensure_loaded(model_id)).status == Status.LOADED)


async def test_an_unload_meant_for_a_server_that_died_spares_its_successor(mesh: Mesh) -> None:
    client = await mesh.add()
    runtime = mesh.runtimes[0]
    runtime.refuse["m"] = (grpc.StatusCode.INTERNAL, "no luck")
    await client.register("m", load=True, sync=True)
    # The model server is to be told in a second to unload what it failed to load; it is another one by then.
    runtime.refuse.clear()
    await runtime.stop()
    await runtime.start()
    await client.unregister("m")
    await client.register("m")
    await eventually(lambda: _loads(client, "m"))
    await asyncio.sleep(1.2)
    assert "m" in runtime.loaded


async def test_a_driver_that_breaks_off_fails_its_load(mesh: Mesh) -> None:
    client = await mesh.add()
    driver: Any = mesh.instances[0]._runtime

    async def broken(model: ModelInfo) -> Any:
        raise ZeroDivisionError(model.model_id)

    driver.load = broken
    driver.predict_size = broken
    await client.register("m")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.infer("m", timeout_s=5)
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert "ZeroDivisionError" in str(error.value.details())


async def test_failures_of_an_earlier_process_do_not_keep_a_model_away(mesh: Mesh) -> None:
    first = await mesh.add(router=True)
    await first.register("m")
    await mesh.instances[0].registry.models.update(
        "m", lambda record: record.with_failure("again", 1, "ran out of memory") if record else None
    )
    client = await mesh.add(instance_id="again")
    await eventually(lambda: _loads(client, "m"))


async def test_an_instance_that_has_withdrawn_stays_away(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    for number in range(8):
        await clients[0].register(f"m{number}", load=True, sync=True)
    name = mesh.instances[0].settings.instance_id
    leaving = asyncio.create_task(mesh.instances[0].drain())
    instances = mesh.instances[1].registry.instances
    await eventually(lambda: name not in instances)
    # The model server of a pod is told to end when its instance is.
    await mesh.runtimes[0].stop()
    await leaving
    assert name not in instances


async def test_models_come_and_go_also_after_the_clock_was_set_back(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), capacity=30 * MIB, size=6 * MIB))
    for number in range(8):
        await client.register(f"m{number}")
    for number in range(4):
        await client.infer(f"m{number}")
    true_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: true_ns() - 3_600_000_000_000)
    for number in range(4, 8):
        assert await client.infer(f"m{number}") == f"m{number}:x".encode()


async def test_a_peer_whose_session_ends_while_it_loads_leaves_nobody_waiting(mesh: Mesh) -> None:
    router = await mesh.add(router=True)
    await mesh.add(ScriptedRuntime(mesh.socket(), size=MIB))
    await mesh.settle()
    mesh.runtimes[0].load_delay_s = 1.0
    await router.register("m")
    request = asyncio.create_task(router.infer("m", timeout_s=10))
    await eventually(lambda: mesh.loads("m") == 1)
    registry = mesh.instances[1].registry
    await registry.store.delete(registry.keys.instances + mesh.instances[1].settings.instance_id)
    (reply,) = await asyncio.gather(request, return_exceptions=True)
    assert reply == b"m:x" or (
        isinstance(reply, grpc.aio.AioRpcError) and reply.code() is grpc.StatusCode.UNAVAILABLE
    )
    assert await router.infer("m") == b"m:x"


async def test_an_instance_whose_session_ended_has_its_copies_still(mesh: Mesh) -> None:
    router = await mesh.add(router=True)
    await mesh.add()
    await mesh.settle()
    await router.register("m", load=True, sync=True)
    session = mesh.instances[1].registry.session
    ended = session.lease
    await mesh.instances[1].registry.store.revoke(ended)
    await eventually(lambda: session.lease not in {0, ended})
    await mesh.settle()
    assert await router.infer("m") == b"m:x"
    assert mesh.loads("m") == 1


async def test_an_id_that_is_taken_is_refused(mesh: Mesh) -> None:
    await mesh.add(instance_id="twin")
    with pytest.raises(InstanceIdTaken, match="instance id twin is taken"):
        await mesh.add(instance_id="twin")
    await mesh.instances[0].close()
    await mesh.add(instance_id="twin")
