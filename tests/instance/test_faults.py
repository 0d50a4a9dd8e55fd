"""What goes wrong with model servers, models and instances, and what a client sees of it."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from mesh.instance import Instance
from mesh.registry import MoveToFailures
from tests.instance.meshes import Client, Mesh, eventually
from tests.instance.scripted_runtime import MIB, ScriptedRuntime


async def _failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


def _reason(error: grpc.aio.AioRpcError) -> str:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert isinstance(details, bytes)
    info = error_details_pb2.ErrorInfo()
    status = status_pb2.Status.FromString(details)
    assert status.details[0].Unpack(info)
    return str(info.reason)


async def test_a_model_that_cannot_be_loaded_is_tried_elsewhere(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(3)]
    await mesh.settle()
    for runtime in mesh.runtimes[:2]:
        runtime.refuse["m"] = (grpc.StatusCode.INTERNAL, "no luck here")
    await clients[0].register("m")
    assert await clients[0].infer("m") == b"m:x"
    assert "m" in mesh.runtimes[2].loaded


async def test_a_load_that_fails_everywhere_tells_why(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    for runtime in mesh.runtimes:
        runtime.refuse["m"] = (grpc.StatusCode.INVALID_ARGUMENT, "not a model")
    await clients[0].register("m")
    error = await _failure(clients[0].infer("m"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "not a model" in str(error.details())
    assert _reason(error) == "LOAD_FAILED"
    before = mesh.loads("m")
    await _failure(clients[1].infer("m"))
    assert mesh.loads("m") == before, "a failure is remembered"


async def test_a_registry_that_is_slow_to_take_a_failure_hides_none(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [await mesh.add() for _ in range(3)]
    await mesh.settle()

    def write_failures_late(instance: Instance) -> None:
        models = instance.registry.models
        update = models.update

        async def update_late(model_id: str, change: Any, **options: Any) -> Any:
            if any(
                isinstance(one, MoveToFailures) for one in getattr(change, "keywords", {}).get("changes", ())
            ):
                await asyncio.sleep(3)
            return await update(model_id, change, **options)

        monkeypatch.setattr(models, "update", update_late)

    for instance, runtime in zip(mesh.instances, mesh.runtimes, strict=True):
        write_failures_late(instance)
        runtime.refuse["m"] = (grpc.StatusCode.INVALID_ARGUMENT, "not a model")
    await clients[0].register("m")
    error = await _failure(clients[0].infer("m"))
    assert (error.code(), _reason(error)) == (grpc.StatusCode.INTERNAL, "LOAD_FAILED"), error.details()
    assert "not a model" in str(error.details())
    assert mesh.loads("m") == 3, "each instance was tried, though the records listed the others' loads"


async def test_a_load_that_hangs_ends_in_time_and_is_cleaned_up(mesh: Mesh) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), loading_timeout_ms=300))
    mesh.runtimes[0].hang.add("m")
    await client.register("m")
    await client.register("good")
    error = await _failure(client.infer("m"))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details()
    assert await client.infer("good") == b"good:x"
    await eventually(lambda: mesh.runtimes[0].unloads["m"] == 1)


async def test_a_model_server_that_dies_while_loading_costs_a_retry(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m")
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 0.5

    async def kill_the_one_that_loads() -> None:
        await eventually(lambda: any(runtime.loads["m"] for runtime in mesh.runtimes))
        await next(runtime for runtime in mesh.runtimes if runtime.loads["m"]).stop()

    reply, _ = await asyncio.gather(clients[0].infer("m"), kill_the_one_that_loads())
    assert reply == b"m:x"


async def test_a_caller_who_gives_up_does_not_end_the_load(mesh: Mesh) -> None:
    client = await mesh.add()
    mesh.runtimes[0].load_delay_s = 0.5
    await client.register("m")
    error = await _failure(client.infer("m", timeout_s=0.1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: "m" in mesh.runtimes[0].loaded)
    assert await client.infer("m") == b"m:x"
    assert mesh.loads("m") == 1


async def test_a_model_larger_than_any_instance_is_refused(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    for runtime in mesh.runtimes:
        runtime.sizes["huge"] = 500 * MIB
    await clients[0].register("huge")
    await clients[0].register("m")
    error = await _failure(clients[0].infer("huge"))
    again = await _failure(clients[1].infer("huge"))
    for refused in (error, again):
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert _reason(refused) == "TOO_LARGE"
    assert await clients[0].infer("m") == b"m:x"


async def test_a_server_that_lies_about_sizes_is_corrected(mesh: Mesh) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), capacity=40 * MIB, default_size=2 * MIB))
    for number in range(10):
        await client.register(f"m{number}")
        await client.infer(f"m{number}")
    cache = mesh.instances[0].parts.loader.cache  # type: ignore[union-attr]
    mesh.runtimes[0].sizes["liar"] = 2 * MIB
    mesh.runtimes[0].true_sizes["liar"] = 25 * MIB
    await client.register("liar")
    assert await client.infer("liar") == b"liar:x"
    await eventually(lambda: cache.used_units <= cache.capacity_units and cache.deficit_units == 0)


async def test_a_model_that_the_server_lost_is_loaded_again(mesh: Mesh) -> None:
    client = await mesh.add()
    await client.register("m")
    await client.infer("m")
    mesh.runtimes[0].loaded.clear()
    assert await client.infer("m") == b"m:x"
    assert mesh.loads("m") == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'm' is not found"),
        (grpc.StatusCode.INVALID_ARGUMENT, "Model m not found"),
        (
            grpc.StatusCode.INTERNAL,
            "Model not found: m\norg.pytorch.serve.archive.model.ModelNotFoundException",
        ),
    ],
)
async def test_other_words_for_a_lost_model_are_understood(
    mesh: Mesh, code: grpc.StatusCode, message: str
) -> None:
    client = await mesh.add()
    await client.register("m")
    await client.infer("m")
    mesh.runtimes[0].refuse_calls["m"] = (code, message)

    async def recover() -> None:
        await eventually(lambda: mesh.loads("m") >= 2)
        mesh.runtimes[0].refuse_calls.clear()

    reply, _ = await asyncio.gather(client.infer("m"), recover(), return_exceptions=True)
    # The server may have said it once more before it recovered; the mesh loads again each time, within bounds.
    assert reply == b"m:x" or isinstance(reply, grpc.aio.AioRpcError)
    assert await client.infer("m") == b"m:x"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_a_server_in_trouble_makes_no_further_copies(mesh: Mesh, code: grpc.StatusCode) -> None:
    clients = [await mesh.add() for _ in range(3)]
    await mesh.settle()
    await clients[0].register("m")
    await clients[0].infer("m")
    for runtime in mesh.runtimes:
        runtime.refuse_calls["m"] = (code, "poisoned request")
    for client in clients:
        error = await _failure(client.infer("m"))
        assert error.code() is code
        assert error.details() == "poisoned request"
    assert mesh.loads("m") == 1


async def test_errors_of_the_model_reach_the_client_unchanged(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m")
    for runtime in mesh.runtimes:
        runtime.refuse_calls["m"] = (grpc.StatusCode.FAILED_PRECONDITION, "tensor 'a' has 3 elements, not 4")
    for client in clients:
        error = await _failure(client.infer("m"))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == "tensor 'a' has 3 elements, not 4"


async def _keep_asking(client: Client, models: list[str], stop: asyncio.Event) -> tuple[int, list[str]]:
    served, failures = 0, []
    while not stop.is_set():
        for model in models:
            try:
                await client.infer(model)
                served += 1
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")
    return served, failures


async def test_a_model_server_that_restarts_under_load_fails_no_request(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(3)]
    await mesh.settle()
    models = [f"m{number}" for number in range(9)]
    for model in models:
        await clients[0].register(model)
        await clients[0].infer(model)
    stop = asyncio.Event()
    askers = [asyncio.create_task(_keep_asking(client, models, stop)) for client in clients]
    await asyncio.sleep(0.3)
    await mesh.runtimes[1].stop()
    await asyncio.sleep(1.0)
    await mesh.runtimes[1].start()
    await asyncio.sleep(1.0)
    stop.set()
    results = await asyncio.gather(*askers)
    assert [failure for _, failures in results for failure in failures] == []
    assert all(served for served, _ in results)


async def test_an_instance_that_drains_fails_no_request(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(3)]
    await mesh.settle()
    models = [f"m{number}" for number in range(9)]
    for model in models:
        await clients[0].register(model)
        await clients[0].infer(model)
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 0.2
    stop = asyncio.Event()
    askers = [asyncio.create_task(_keep_asking(client, models, stop)) for client in clients[1:]]
    await asyncio.sleep(0.2)
    held = set(mesh.runtimes[0].loaded)
    await mesh.instances[0].drain()
    await mesh.instances[0].close()
    await asyncio.sleep(0.3)
    stop.set()
    results = await asyncio.gather(*askers)
    assert [failure for _, failures in results for failure in failures] == []
    assert held
    assert held <= mesh.runtimes[1].loaded | mesh.runtimes[2].loaded


async def test_an_instance_whose_peers_are_gone_loads_the_models_itself(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    for number in range(6):
        await clients[0].register(f"m{number}")
        await clients[0].infer(f"m{number}")
    await mesh.instances[1].close()
    for number in range(6):
        assert await clients[0].infer(f"m{number}") == f"m{number}:x".encode()


async def test_what_left_while_the_registry_was_away_leaves_the_records_once_it_is_back(mesh: Mesh) -> None:
    client = await mesh.add()
    for model in ("warm", "lost"):
        await client.register(model, load=True, sync=True)
    registry = mesh.instances[0].registry
    mesh.registry.stop()
    mesh.runtimes[0].loaded.discard("lost")
    assert await client.infer("warm") == b"warm:x"
    error = await _failure(client.infer("lost"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert _reason(error) == "REGISTRY_UNAVAILABLE"
    mesh.registry.start()
    await eventually(lambda: not registry.models["lost"].copies)
    assert await client.infer("lost") == b"lost:x"
    assert registry.models["lost"].copies.keys() == registry.models["warm"].copies.keys()


async def test_a_late_answer_that_the_model_was_lost_says_nothing_of_a_copy_loaded_since(mesh: Mesh) -> None:
    client = await mesh.add()
    runtime = mesh.runtimes[0]
    await client.register("m", load=True, sync=True)
    runtime.refuse_calls["m"] = (grpc.StatusCode.NOT_FOUND, "no such model")
    runtime.refuse_delay_s = 1.5
    slow = asyncio.create_task(client.infer("m", b"slow"))
    await eventually(lambda: runtime.calls["m"] == 1)
    runtime.refuse_calls.clear()
    runtime.loaded.discard("m")
    assert await client.infer("m") == b"m:x"
    assert mesh.loads("m") == 2
    assert await slow == b"m:slow"
    assert mesh.loads("m") == 2
