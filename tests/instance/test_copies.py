"""Models have as many copies as their load and their policies ask for."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mesh.instance import CopySettings, Instance, UpkeepSettings
from mesh.instance.copies.growing import AT_ONCE
from mesh.protos import admin_pb2
from mesh.registry import ModelRecord
from mesh.runtimes import ModelInfo
from tests.instance.meshes import Client, Mesh, eventually
from tests.instance.scripted_runtime import MIB, ScriptedRuntime

#: Looks often, and does not wait for long calm, as far as a test says nothing else.
QUICK = CopySettings(look_interval_ms=300, rebalance=False)


async def set_policy(
    client: Client, model_id: str, *, replace: bool = False, **members: Any
) -> admin_pb2.Policy:
    request = admin_pb2.SetPolicyRequest(
        model_id=model_id, policy=admin_pb2.Policy(**members), replace=replace
    )
    return (await client.admin.SetPolicy(request, timeout=20)).policy


def copies(mesh: Mesh, model_id: str) -> int:
    return sum(model_id in runtime.loaded for runtime in mesh.runtimes)


def exposition(instance: Instance) -> str:
    """What a scrape of the instance shows."""
    registry = CollectorRegistry()
    registry.register(instance.parts.collector)
    return generate_latest(registry).decode()


async def started(mesh: Mesh, number: int, **settings: Any) -> list[Client]:
    clients = [await mesh.add(copies=QUICK, **settings) for _ in range(number)]
    await mesh.settle()
    return clients


@asynccontextmanager
async def load(client: Client, model_id: str, *, rpm: int) -> AsyncIterator[list[Exception]]:
    """Asks the model at a steady rate until the block ends; gives the errors."""
    errors: list[Exception] = []
    asked: set[asyncio.Task[None]] = set()

    async def ask() -> None:
        try:
            await client.infer(model_id)
        except grpc.aio.AioRpcError as error:
            errors.append(error)

    async def keep_asking() -> None:
        began, number = time.monotonic(), 0
        while True:
            while number < (time.monotonic() - began) * rpm / 60:
                task = asyncio.create_task(ask())
                asked.add(task)
                task.add_done_callback(asked.discard)
                number += 1
            await asyncio.sleep(0.01)

    keeper = asyncio.create_task(keep_asking())
    try:
        yield errors
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, *asked, return_exceptions=True)


async def test_sudden_load_adds_copies_long_before_the_next_look(mesh: Mesh) -> None:
    settings = CopySettings(scaleup_rpm_threshold=1_200, look_interval_ms=600_000)
    clients = [await mesh.add(copies=settings) for _ in range(3)]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    await clients[0].infer("m")
    async with load(clients[0], "m", rpm=4_500) as errors:
        await eventually(lambda: copies(mesh, "m") == 3, timeout_s=40)
    assert errors == []
    async with AsyncExitStack() as stack:
        # Each copy takes its part of the requests.
        for client in clients:
            await stack.enter_async_context(load(client, "m", rpm=1_500))
        before = [runtime.calls["m"] for runtime in mesh.runtimes]
        await eventually(
            lambda: all(
                runtime.calls["m"] > count for runtime, count in zip(mesh.runtimes, before, strict=True)
            ),
            timeout_s=40,
        )
    assert errors == []
    decisions = await clients[0].explain("m")
    told = [decision.summary for decision in decisions if decision.kind == "scale_up"][-1]
    assert told.startswith("to have 3 copies: ")
    assert "where one copy is to take 1200" in told


async def test_copies_that_are_not_asked_are_not_joined_by_more(mesh: Mesh) -> None:
    settings = CopySettings(scaleup_rpm_threshold=600, look_interval_ms=500)
    clients = [await mesh.add(copies=settings) for _ in range(5)]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    # All that one client asks goes to the copy where it asks, which answers at once.
    async with load(clients[0], "m", rpm=1_000):
        await eventually(lambda: copies(mesh, "m") >= 2, timeout_s=40)
        await asyncio.sleep(3)
    assert copies(mesh, "m") <= 3


async def test_load_does_not_wait_until_policies_have_their_copies(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    await started(mesh, 2)
    await eventually(lambda: any(instance.registry.election.leading for instance in mesh.instances))
    number = next(n for n, instance in enumerate(mesh.instances) if instance.registry.election.leading)
    leader, client = mesh.instances[number], mesh.clients[number]
    raise_copies, held = leader.parts.placer.raise_copies, set[str]()

    async def raise_late(model_id: str, copies: int, **options: Any) -> int:
        if model_id != "hot":
            held.add(model_id)
            await asyncio.sleep(60)
        return await raise_copies(model_id, copies, **options)

    monkeypatch.setattr(leader.parts.placer, "raise_copies", raise_late)
    await client.register("hot")
    assert leader.parts.loader is not None
    await leader.parts.loader.load(ModelInfo("hot", "test", "", ""), last_used_ms=1, urgent=True)
    for name in range(20):
        await client.register(f"kept-{name}", key='{"policy": {"minCopies": 1}}')
    await eventually(lambda: len(held) == AT_ONCE)
    async with load(client, "hot", rpm=6_000):
        await eventually(lambda: copies(mesh, "hot") == 2)


async def test_many_requests_in_flight_add_a_copy_though_their_rate_is_low(mesh: Mesh) -> None:
    settings = CopySettings(in_flight_threshold=10, look_interval_ms=600_000)
    clients = [await mesh.add(copies=settings) for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    await clients[0].infer("m")
    for runtime in mesh.runtimes:
        runtime.call_delay_s = 1.5
    async with load(clients[0], "m", rpm=900):
        await eventually(lambda: copies(mesh, "m") == 2)
    kinds = [decision for decision in await clients[0].explain("m") if decision.kind == "scale_up"]
    assert "requests in flight" in kinds[0].summary


async def test_a_copy_of_limited_concurrency_that_lets_requests_wait_gets_another(mesh: Mesh) -> None:
    clients = [
        await mesh.add(ScriptedRuntime(mesh.socket(), limit_concurrency=2), copies=QUICK) for _ in range(2)
    ]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    await clients[0].infer("m")
    for runtime in mesh.runtimes:
        runtime.call_delay_s = 0.5
    async with load(clients[0], "m", rpm=360) as errors:
        await eventually(lambda: copies(mesh, "m") == 2)
    assert not errors
    assert max(runtime.most_running["m"] for runtime in mesh.runtimes) <= 2


async def test_a_low_rate_adds_nothing(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    async with load(clients[0], "m", rpm=600) as errors:
        await asyncio.sleep(2)
    assert errors == []
    assert copies(mesh, "m") == 1


async def test_the_threshold_may_change_while_instances_run(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    async with load(clients[0], "m", rpm=900):
        await asyncio.sleep(0.7)
        assert copies(mesh, "m") == 1
        await mesh.instances[0].registry.store.put(
            f"{mesh.instances[0].registry.keys.config}scaleup_rpm_threshold", b"300"
        )
        await eventually(lambda: copies(mesh, "m") == 2)


async def test_a_model_whose_use_recurs_gets_a_second_copy(mesh: Mesh) -> None:
    settings = replace(QUICK, second_copy_min_age_s=2, second_copy_max_age_s=30)
    clients = [await mesh.add(copies=settings) for _ in range(2)]
    await mesh.settle()
    await clients[0].register("often", load=True, sync=True)
    await clients[0].register("once", load=True, sync=True)
    await clients[0].infer("often")
    await clients[0].infer("once")
    await asyncio.sleep(2.5)
    await clients[0].infer("often")
    await eventually(lambda: copies(mesh, "often") == 2)
    assert copies(mesh, "once") == 1
    assert any("is used now as it was" in decision.summary for decision in await clients[0].explain("often"))


async def test_minimum_copies_are_there_from_the_start_and_come_back(mesh: Mesh) -> None:
    clients = await started(mesh, 3)
    await clients[0].register("m", key='{"policy": {"minCopies": 2}}')
    await eventually(lambda: copies(mesh, "m") == 2)
    holder = next(runtime for runtime in mesh.runtimes if "m" in runtime.loaded)
    await holder.stop()
    await holder.start()
    await eventually(lambda: copies(mesh, "m") == 2)
    assert (await set_policy(clients[1], "m", min_copies=3)).min_copies == 3
    await eventually(lambda: copies(mesh, "m") == 3)
    assert (await clients[2].describe("m")).policy.min_copies == 3
    # Nor can more be had, which shows until it is not asked for any more.
    leader = next(instance for instance in mesh.instances if instance.registry.election.leading)
    await set_policy(clients[1], "m", min_copies=5)
    await eventually(lambda: "copies_missing 2.0" in exposition(leader))
    await clients[1].unregister("m")
    await eventually(lambda: "copies_missing 0.0" in exposition(leader))


async def test_a_copy_on_an_instance_that_is_leaving_is_replaced_beside_it(mesh: Mesh) -> None:
    clients = await started(mesh, 2)
    await clients[0].register("m", key='{"policy": {"pinned": true}}', load=True, sync=True)
    await eventually(lambda: copies(mesh, "m") == 1)
    leaving = next(
        instance
        for instance, runtime in zip(mesh.instances, mesh.runtimes, strict=True)
        if "m" in runtime.loaded
    )
    # It takes its time to hand over what it has.
    leaving.parts.self_view.leaving = True
    await leaving.parts.publisher.publish()
    await eventually(lambda: copies(mesh, "m") == 2)


async def test_minimum_copies_wait_for_instances(mesh: Mesh) -> None:
    clients = await started(mesh, 1)
    await clients[0].register("m")
    await set_policy(clients[0], "m", min_copies=2)
    await eventually(lambda: copies(mesh, "m") == 1)
    await mesh.add(copies=QUICK)
    await eventually(lambda: copies(mesh, "m") == 2)


async def test_a_model_has_no_more_copies_than_it_may(mesh: Mesh) -> None:
    settings = replace(QUICK, scaleup_rpm_threshold=600)
    clients = [await mesh.add(copies=settings) for _ in range(3)]
    await mesh.settle()
    await clients[0].register("m", key='{"policy": {"maxCopies": 1}}', load=True, sync=True)
    async with load(clients[0], "m", rpm=3_000):
        await asyncio.sleep(2)
    assert copies(mesh, "m") == 1
    # Nor because the one that there is does not answer.
    holder = next(runtime for runtime in mesh.runtimes if "m" in runtime.loaded)
    holder.refuse_calls["m"] = (grpc.StatusCode.UNAVAILABLE, "busy with something else")
    with pytest.raises(grpc.aio.AioRpcError):
        await clients[1].infer("m")
    assert mesh.loads("m") == 1


async def test_copies_above_a_new_maximum_go(mesh: Mesh) -> None:
    clients = await started(mesh, 3)
    await clients[0].register("m", key='{"policy": {"minCopies": 3}}')
    await eventually(lambda: copies(mesh, "m") == 3)
    await set_policy(clients[0], "m", replace=True, max_copies=1)
    await eventually(lambda: copies(mesh, "m") == 1)
    await asyncio.sleep(1)
    assert copies(mesh, "m") == 1
    assert await clients[1].infer("m") == b"m:x"
    kinds = [decision.summary for decision in await clients[0].explain("m") if decision.kind == "scale_down"]
    assert any("is to have at most 1" in summary for summary in kinds)


async def test_an_idle_model_is_unloaded_after_its_time_and_loads_again(mesh: Mesh) -> None:
    clients = await started(mesh, 2)
    await clients[0].register("short", key='{"policy": {"idleTtlMs": 800}}', load=True, sync=True)
    await clients[0].register("kept", key='{"policy": {"idleTtlMs": 800, "pinned": true}}')
    await clients[0].register("long", load=True, sync=True)
    await eventually(lambda: copies(mesh, "kept") == 1)
    await eventually(lambda: copies(mesh, "short") == 0)
    assert (copies(mesh, "kept"), copies(mesh, "long")) == (1, 1)
    assert await clients[1].infer("short") == b"short:x"


async def test_an_idle_model_that_is_used_before_its_turn_stays(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await mesh.add(copies=replace(QUICK, look_interval_ms=60_000))
    models = mesh.instances[0].registry.models
    update, turn = models.update, asyncio.Event()

    async def update_late(model_id: str, change: Any, **options: Any) -> Any:
        if not turn.is_set():
            turn.set()
            await asyncio.sleep(1)
        return await update(model_id, change, **options)

    for name in ("first", "second"):
        await client.register(name, key='{"policy": {"idleTtlMs": 200}}', load=True, sync=True)
        await asyncio.sleep(0.3)
    monkeypatch.setattr(models, "update", update_late)
    # Both have been idle for too long when it is looked; then somebody asks the one that is the next to go.
    (take_away,) = (
        look for name, _, look in mesh.instances[0].parts.copies.loops if name == "taking copies away"
    )
    looking = asyncio.ensure_future(take_away())
    await turn.wait()
    assert await client.infer("second") == b"second:x"
    await looking
    await eventually(lambda: mesh.runtimes[0].unloads["first"] == 1)
    assert mesh.runtimes[0].loaded == {"second"}


async def test_a_second_copy_that_nobody_uses_goes(mesh: Mesh) -> None:
    clients = [await mesh.add(copies=replace(QUICK, spare_idle_s=1)) for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m", key='{"policy": {"minCopies": 2}}')
    await eventually(lambda: copies(mesh, "m") == 2)
    await set_policy(clients[0], "m", min_copies=0)
    await eventually(lambda: copies(mesh, "m") == 1)
    await asyncio.sleep(1.5)
    assert copies(mesh, "m") == 1


async def test_no_request_fails_while_copies_come_and_go(mesh: Mesh) -> None:
    clients = await started(mesh, 3)
    await clients[0].register("m", key='{"policy": {"minCopies": 1}}', load=True, sync=True)
    async with load(clients[0], "m", rpm=1_500) as one, load(clients[2], "m", rpm=300) as other:
        for count in (3, 1, 2, 1):
            await set_policy(clients[1], "m", min_copies=count, max_copies=count)
            await eventually(lambda count=count: copies(mesh, "m") == count)
    assert one + other == []


async def test_a_pinned_model_is_not_evicted(mesh: Mesh) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), capacity=32 * MIB, size=6 * MIB), copies=QUICK)
    await client.register("pinned", key='{"policy": {"pinned": true}}', load=True, sync=True)
    await client.infer("pinned")
    for number in range(12):
        await client.register(f"m{number}")
        await client.infer(f"m{number}")
    assert mesh.runtimes[0].unloads["pinned"] == 0
    assert sum(mesh.runtimes[0].unloads.values()) >= 8


async def test_copies_move_to_an_instance_that_joins(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.placement.copies.moves._SETTLED_MS", 0)
    settings = replace(QUICK, rebalance=True)

    def runtime() -> ScriptedRuntime:
        return ScriptedRuntime(mesh.socket(), capacity=64 * MIB, size=2 * MIB)

    client = await mesh.add(runtime(), copies=settings)
    models = [f"m{number}" for number in range(30)]
    for model_id in models:
        await client.register(model_id, load=True, sync=True)
        await client.infer(model_id)
    await mesh.add(runtime(), copies=settings)
    await eventually(lambda: len(mesh.runtimes[1].loaded) >= 2, timeout_s=20)
    await asyncio.sleep(1)
    first, second = (len(runtime.loaded) for runtime in mesh.runtimes)
    assert first >= second, "the difference is not turned round"
    assert first + second == len(models), "every model has one copy still"
    moves = [decision for decision in await client.explain() if decision.kind == "move"]
    assert moves
    assert "of the memory here are taken" in moves[0].summary
    for model_id in models:
        assert await client.infer(model_id) == f"{model_id}:x".encode()


async def test_busy_copies_move_to_an_idle_instance(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.placement.copies.moves._SETTLED_MS", 0)
    settings = replace(QUICK, rebalance=True, scaleup_rpm_threshold=1_000_000)
    client = await mesh.add(copies=settings)
    models = [f"m{number}" for number in range(4)]
    for model_id in models:
        await client.register(model_id, load=True, sync=True)
    async with AsyncExitStack() as stack:
        errors = [await stack.enter_async_context(load(client, model_id, rpm=1_500)) for model_id in models]
        await asyncio.sleep(2)
        await mesh.add(copies=settings)
        await eventually(
            lambda: (
                mesh.runtimes[1].loaded and len(mesh.runtimes[0].loaded) + len(mesh.runtimes[1].loaded) == 4
            ),
            timeout_s=20,
        )
        assert len(mesh.runtimes[1].loaded) <= 2, "the difference is not turned round"
    assert not any(errors)
    assert any(
        decision.kind == "move" and "requests/min here" in decision.summary
        for decision in await client.explain()
    )


async def test_a_policy_says_what_is_wrong_with_it(mesh: Mesh) -> None:
    (client,) = await started(mesh, 1)
    await client.register("m")
    with pytest.raises(grpc.aio.AioRpcError, match="min_copies, 3: raise max_copies") as refused:
        await set_policy(client, "m", min_copies=3, max_copies=2)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await set_policy(client, "nobody", min_copies=1)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    for key, told in (
        ('{"policy": {"minCopy": 1}}', "policy.minCopy in the key of model n is 1: there are minCopies"),
        ('{"policy": {"priority": 1000}}', "priority is 1000: it must be -100 to 100"),
        ('{"policy": 2}', "must be an object"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=told):
            await client.register("n", key=key)
    await client.register("free form", key="my policy: none")


async def test_a_policy_changes_in_the_parts_that_are_named(mesh: Mesh) -> None:
    (client,) = await started(mesh, 1)
    await client.register("m")
    await set_policy(client, "m", priority=-5, idle_ttl_ms=60_000)
    policy = await set_policy(client, "m", priority=7)
    assert (policy.priority, policy.idle_ttl_ms) == (7, 60_000)
    policy = await set_policy(client, "m", replace=True, pinned=True)
    assert (policy.priority, policy.idle_ttl_ms, policy.pinned) == (0, 0, True)
    await set_policy(client, "m", replace=True)
    assert not (await client.describe("m")).HasField("policy")
    assert mesh.instances[0].registry.models["m"] == ModelRecord(
        type="test", last_used=mesh.instances[0].registry.models["m"].last_used
    )


async def test_a_model_that_may_have_one_copy_is_handed_over_like_any_other(mesh: Mesh) -> None:
    clients = await started(mesh, 2)
    await clients[0].register("m", key='{"policy": {"maxCopies": 1}}', load=True, sync=True)
    leaving = next(number for number, runtime in enumerate(mesh.runtimes) if "m" in runtime.loaded)
    staying = 1 - leaving
    async with load(clients[staying], "m", rpm=900) as errors:
        await mesh.instances[leaving].drain()
        assert "m" in mesh.runtimes[staying].loaded
        await eventually(
            lambda: (
                list(mesh.instances[staying].registry.models["m"].copies)
                == [mesh.instances[staying].settings.instance_id]
            )
        )
    assert errors == []


async def test_a_copy_that_does_not_answer_is_not_replaced_beyond_the_maximum(mesh: Mesh) -> None:
    clients = await started(mesh, 2)
    await clients[0].register("m", key='{"policy": {"maxCopies": 1}}', load=True, sync=True)
    await clients[0].infer("m")
    holder = next(number for number, runtime in enumerate(mesh.runtimes) if "m" in runtime.loaded)
    # Its process is gone, and its session not yet over.
    mesh.instances[holder].parts.dataplane.close(0)
    with pytest.raises(
        grpc.aio.AioRpcError, match=r"gets no further copy: .* as many as its policy allows"
    ) as refused:
        await clients[1 - holder].infer("m")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert mesh.loads("m") == 1


async def test_what_was_unloaded_for_being_idle_is_not_loaded_ahead_of_demand(mesh: Mesh) -> None:
    upkeep = UpkeepSettings(reaper_delay_s=1, reaper_interval_s=1)
    client = await mesh.add(copies=QUICK, upkeep=upkeep)
    await client.register("idle", key='{"policy": {"idleTtlMs": 1000}}', load=True, sync=True)
    await client.register("other", load=True, sync=True)
    await client.infer("idle")
    await eventually(lambda: "idle" not in mesh.runtimes[0].loaded)
    await mesh.runtimes[0].stop()
    await mesh.runtimes[0].start()
    await eventually(lambda: mesh.loads("other") == 2, timeout_s=15)
    await asyncio.sleep(2)
    assert mesh.loads("idle") == 1
