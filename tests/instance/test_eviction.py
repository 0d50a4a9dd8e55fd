"""What users see of evictions and of their refusal."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from mesh.instance.settings import EvictionSettings
from mesh.placement import EvictionRanking
from tests.instance.meshes import Mesh, eventually
from tests.instance.scripted_runtime import MIB, ScriptedRuntime


@pytest.mark.parametrize("ranking", EvictionRanking)
async def test_a_load_that_would_evict_what_is_in_use_is_refused_for_now(
    mesh: Mesh, ranking: EvictionRanking
) -> None:
    guarded = EvictionSettings(min_churn_age_ms=3_000, ranking=ranking)
    clients = [
        await mesh.add(ScriptedRuntime(mesh.socket(), capacity=25 * MIB, size=20 * MIB), eviction=guarded)
        for _ in range(2)
    ]
    await mesh.settle()
    for name in "abc":
        await clients[0].register(name)
    await clients[0].infer("a")
    await clients[0].infer("b")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await clients[0].infer("c")
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "Cache churn threshold exceeded" in str(error.value.details())
    details = dict(error.value.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert isinstance(details, bytes)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    told = status_pb2.Status.FromString(details).details
    assert any(detail.Unpack(info) for detail in told)
    assert any(detail.Unpack(retry) for detail in told)
    assert info.reason == "CHURN"
    assert retry.retry_delay.seconds > 0

    async def is_answered() -> bool:
        try:
            return await clients[0].infer("c") == b"c:x"
        except grpc.aio.AioRpcError:
            return False

    await eventually(is_answered)


async def test_a_registered_model_takes_the_place_of_one_in_use_only_where_somebody_waits_for_it(
    mesh: Mesh,
) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), capacity=25 * MIB, size=20 * MIB))
    await client.register("used")
    await client.infer("used")
    await client.register("unasked", load=True)

    async def is_refused() -> bool:
        refusals = [one.summary for one in await client.explain("unasked") if one.kind == "refusal"]
        return any("used more recently than this model" in refusal for refusal in refusals)

    await eventually(is_refused)
    assert mesh.runtimes[0].loaded == {"used"}
    await client.register("awaited", load=True, sync=True)
    assert mesh.runtimes[0].loads["awaited"] == 1
    await eventually(lambda: mesh.runtimes[0].loaded == {"awaited"})


async def test_a_pinned_model_is_not_evicted_and_what_is_worth_least_is(mesh: Mesh) -> None:
    by_cost = EvictionSettings(min_churn_age_ms=0, ranking=EvictionRanking.COST_AWARE)
    runtime = ScriptedRuntime(mesh.socket(), capacity=35 * MIB, size=10 * MIB)
    client = await mesh.add(runtime, eviction=by_cost)
    for name in ("pinned", "quick", "slow", "new"):
        await client.register(name)
        if name == "pinned":
            await mesh.instances[0].registry.models.update(
                name, lambda record: record.but(policy={"pinned": True}) if record else None
            )
    for name in ("pinned", "slow", "quick"):
        runtime.load_delay_s = 0.5 if name == "slow" else 0.0
        await client.infer(name)
    runtime.load_delay_s = 0.0
    await client.infer("new")
    assert runtime.loaded >= {"pinned", "slow", "new"}
    await eventually(lambda: "quick" not in runtime.loaded)
    (eviction,) = [decision for decision in await client.explain("quick") if decision.kind == "eviction"]
    assert "least worth keeping" in eviction.summary
