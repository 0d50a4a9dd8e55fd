"""Vmodels as their users know them: setting, moving, deleting and asking them, whatever happens meanwhile."""

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from mesh.instance import CopySettings, LifecycleSettings, UpkeepSettings, VModelSettings
from mesh.placement import RemovalReason
from mesh.protos import model_mesh_pb2 as api
from mesh.protos import vmodels_pb2
from mesh.registry import Delete, ModelRecord, Put, VModelRecord
from tests.instance.meshes import Client, Mesh, eventually
from tests.instance.scripted_runtime import MIB, ScriptedRuntime

VStatus = api.VModelStatusInfo
Status = api.ModelStatusInfo
INFO = api.ModelInfo(type="test")


def _references(mesh: Mesh) -> dict[str, int]:
    return {model_id: record.refs for model_id, record in mesh.instances[0].registry.models.items()}


async def _copies(mesh: Mesh, model_id: str, count: int) -> None:
    """Has a model loaded on so many instances."""
    placer = mesh.instances[0].parts.placer
    await placer.raise_copies(model_id, count, last_used_ms=0, why="the test wants them")
    await eventually(
        lambda: len([runtime for runtime in mesh.runtimes if model_id in runtime.loaded]) == count
    )


async def _refused(call: Any, code: grpc.StatusCode, message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert (error.value.code(), error.value.details()) == (code, message)


async def _defined(client: Client, vmodel_id: str, model_id: str) -> bool:
    status = await client.vmodel_status(vmodel_id)
    return status.status == VStatus.DEFINED and status.activeModelId == model_id


async def test_a_vmodel_is_made_with_its_model_asked_and_deleted_with_it(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    reply = await clients[0].set_vmodel(
        "v", "m", info=INFO, autoDeleteTargetModel=True, loadNow=True, sync=True, owner="me"
    )
    assert (reply.status, reply.activeModelId, reply.targetModelId) == (VStatus.DEFINED, "m", "m")
    assert (reply.activeModelStatus.status, reply.owner) == (Status.LOADED, "me")
    assert not reply.HasField("targetModelStatus")
    for client in clients:
        assert await client.infer_vmodel("v") == b"m:x"
        assert (await client.vmodel_status("v")).activeModelStatus.status == Status.LOADED
    await _refused(clients[1].unregister("m"), grpc.StatusCode.FAILED_PRECONDITION, "Model m has referents")

    assert (await clients[1].vmodel_status("v", owner="you")) == VStatus()
    await clients[1].delete_vmodel("v", owner="you")
    assert (await clients[1].vmodel_status("v")).status == VStatus.DEFINED
    await clients[1].delete_vmodel("v", owner="me")
    await clients[1].delete_vmodel("v")
    assert (await clients[0].vmodel_status("v")) == VStatus()
    assert (await clients[0].status("m")).status == Status.NOT_FOUND
    await eventually(lambda: not any("m" in runtime.loaded for runtime in mesh.runtimes))


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"vModelId": ""}, grpc.StatusCode.INVALID_ARGUMENT, "Must provide vModelId"),
        (
            {"targetModelId": ""},
            grpc.StatusCode.INVALID_ARGUMENT,
            "Must provide target modelId for vmodel v",
        ),
        (
            {"modelInfo": api.ModelInfo(path="p")},
            grpc.StatusCode.INVALID_ARGUMENT,
            "modelInfo of target model new has no type: give it one, or leave modelInfo out for a model that is"
            " registered",
        ),
        ({"targetModelId": "nobody"}, grpc.StatusCode.NOT_FOUND, "Target model nobody not found"),
        ({"vModelId": "w", "updateOnly": True}, grpc.StatusCode.NOT_FOUND, "vmodel w not found"),
        (
            {"expectedTargetModelId": "other"},
            grpc.StatusCode.FAILED_PRECONDITION,
            "Existing target model old does not match expected other",
        ),
        (
            {"vModelId": "w", "expectedTargetModelId": "old"},
            grpc.StatusCode.FAILED_PRECONDITION,
            "vmodel w not found",
        ),
        (
            {"owner": "you"},
            grpc.StatusCode.ALREADY_EXISTS,
            'vmodel v already exists with different owner "the default"',
        ),
        (
            {"modelInfo": api.ModelInfo(type="other")},
            grpc.StatusCode.ALREADY_EXISTS,
            "Target model new already exists with different attribute values",
        ),
    ],
)
async def test_what_must_not_be_is_refused_and_changes_nothing(
    mesh: Mesh, fields: dict[str, Any], code: grpc.StatusCode, message: str
) -> None:
    client = await mesh.add(vmodels=VModelSettings(default_owner="the default"))
    for model in ("old", "new"):
        await client.register(model)
    await client.set_vmodel("v", "old")
    request = api.SetVModelRequest(**{"vModelId": "v", "targetModelId": "new"} | fields)
    await _refused(client.management.setVModel(request, timeout=10), code, message)
    assert _references(mesh) == {"old": 1, "new": 0}


async def test_the_target_gets_as_many_copies_as_the_active_model_before_it_takes_over(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(3)]
    await mesh.settle()
    await clients[0].set_vmodel("v", "old", info=INFO)
    await _copies(mesh, "old", 2)
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 0.5
    reply = await clients[1].set_vmodel("v", "new", info=INFO)
    assert (reply.status, reply.activeModelId, reply.targetModelId) == (VStatus.TRANSITIONING, "old", "new")
    assert reply.targetModelStatus.status == Status.LOADING
    answers = set()
    while not await _defined(clients[2], "v", "new"):
        assert len([runtime for runtime in mesh.runtimes if "old" in runtime.loaded]) == 2, "kept until then"
        answers |= {await client.infer_vmodel("v") for client in clients}
        assert b"new:x" not in answers or mesh.loads("new") == 2
        await asyncio.sleep(0.05)
    assert mesh.loads("new") == 2
    for client in clients:
        await eventually(lambda client=client: _is(client, b"new:x"))
    assert _references(mesh) == {"old": 0, "new": 1}
    summaries = [decision.summary for decision in await clients[0].explain("new")]
    assert any("vmodel v moves here from old: it has 2 copies, as many" in summary for summary in summaries)


async def _is(client: Client, answer: bytes) -> bool:
    return await client.infer_vmodel("v") == answer


async def test_a_mesh_without_a_place_for_as_many_copies_moves_with_those_it_has(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    small = ScriptedRuntime(mesh.socket(), capacity=24 * MIB)
    clients.append(await mesh.add(small))
    await mesh.settle()
    await clients[0].set_vmodel("v", "old", info=INFO)
    await _copies(mesh, "old", 3)
    for runtime in mesh.runtimes:
        runtime.sizes["new"] = 30 * MIB
    reply = await clients[0].set_vmodel("v", "new", info=INFO, sync=True)
    assert (reply.status, reply.activeModelId) == (VStatus.DEFINED, "new")
    assert mesh.loads("new") == 2
    summaries = [decision.summary for decision in await clients[0].explain("new")]
    assert any(
        "it has 2 copies, the active model 3, and more are not to be had" in told for told in summaries
    )


async def test_in_read_only_mode_vmodels_stay_as_they_are(mesh: Mesh) -> None:
    client = await mesh.add()
    await client.set_vmodel("v", "m", info=INFO)
    frozen = await mesh.add(lifecycle=LifecycleSettings(read_only=True, prestop_port=None))
    await mesh.settle()
    assert (await frozen.set_vmodel("v", "m")).status == VStatus.DEFINED
    for call in (frozen.set_vmodel("v", "new", info=INFO), frozen.delete_vmodel("v")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "read-only" in str(error.value.details())
    assert await frozen.infer_vmodel("v") == b"m:x"


async def test_a_copy_that_fails_beside_one_that_is_loaded_is_waited_for_but_not_forever(mesh: Mesh) -> None:
    patient = VModelSettings(patience_ms=1_000)
    clients = [await mesh.add(vmodels=patient) for _ in range(2)]
    await mesh.settle()
    await clients[0].set_vmodel("v", "old", info=INFO)
    await _copies(mesh, "old", 2)
    mesh.runtimes[1].refuse["new"] = (grpc.StatusCode.INTERNAL, "out of memory")
    await clients[0].set_vmodel("v", "new", info=INFO)
    await eventually(lambda: mesh.loads("new") >= 2)
    assert (await clients[0].vmodel_status("v")).activeModelId == "old"
    await eventually(lambda: _defined(clients[0], "v", "new"), 20)


async def test_sync_waits_for_the_move_and_a_failure_ends_the_wait(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 0.3
        runtime.refuse["bad"] = (grpc.StatusCode.INVALID_ARGUMENT, "the file is broken")
    reply = await clients[1].set_vmodel("v", "good", info=INFO, sync=True)
    assert (reply.status, reply.activeModelId) == (VStatus.DEFINED, "good")
    assert reply.activeModelStatus.status == Status.LOADED

    reply = await clients[1].set_vmodel("v", "bad", info=INFO, sync=True)
    assert (reply.status, reply.activeModelId, reply.targetModelId) == (
        VStatus.TRANSITION_FAILED,
        "good",
        "bad",
    )
    leader = next(instance for instance in mesh.instances if instance.registry.election.leading)
    told = {
        sample.name: sample.value for family in leader.parts.collector.collect() for sample in family.samples
    }
    assert told["modelmesh_vmodels_managed_total"] == 1
    assert told["modelmesh_vmodels_in_transition_total"] == 1
    assert told["modelmesh_vmodels_with_failure_total"] == 1
    assert reply.targetModelStatus.status == Status.LOADING_FAILED
    assert any("the file is broken" in message for message in reply.targetModelStatus.errors)
    for client in clients:
        assert await client.infer_vmodel("v") == b"good:x"
    assert _references(mesh) == {"old": 0, "good": 1, "bad": 1}


async def test_a_failed_transition_goes_on_when_an_instance_can_load_the_target(mesh: Mesh) -> None:
    client = await mesh.add(vmodels=VModelSettings(review_interval_ms=100))
    await client.set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    mesh.runtimes[0].refuse["new"] = (grpc.StatusCode.INVALID_ARGUMENT, "no such format here")
    reply = await client.set_vmodel("v", "new", info=INFO, sync=True)
    assert reply.status == VStatus.TRANSITION_FAILED
    await mesh.add()
    await eventually(lambda: _defined(client, "v", "new"))
    assert await client.infer_vmodel("v") == b"new:x"


async def test_a_target_that_is_replaced_on_the_way_is_let_go(mesh: Mesh) -> None:
    client = await mesh.add()
    runtime = mesh.runtimes[0]
    await client.set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    runtime.hang.add("slow")
    reply = await client.set_vmodel("v", "slow", info=INFO, autoDeleteTargetModel=True)
    assert reply.status == VStatus.TRANSITIONING
    await eventually(lambda: runtime.loads["slow"] == 1)
    reply = await client.set_vmodel("v", "next", info=INFO, sync=True)
    assert (reply.status, reply.activeModelId) == (VStatus.DEFINED, "next")
    assert _references(mesh) == {"old": 0, "next": 1}


@pytest.mark.parametrize("force", [False, True])
async def test_reverting_and_forcing_leave_no_reference_behind(mesh: Mesh, force: bool) -> None:
    client = await mesh.add()
    runtime = mesh.runtimes[0]
    await client.set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    runtime.hang.add("new")
    await client.set_vmodel("v", "new", info=INFO)
    assert _references(mesh) == {"old": 1, "new": 1}
    chosen, other = ("new", "old") if force else ("old", "new")
    reply = await client.set_vmodel("v", chosen, force=force)
    assert (reply.status, reply.activeModelId) == (VStatus.DEFINED, chosen)
    assert _references(mesh) == {chosen: 1, other: 0}
    await client.unregister(other)
    assert (await client.status(other)).status == Status.NOT_FOUND


async def test_a_target_that_is_loaded_and_an_active_model_that_is_not_move_at_once(mesh: Mesh) -> None:
    client = await mesh.add()
    await client.set_vmodel("v", "old", info=INFO)
    reply = await client.set_vmodel("v", "new", info=INFO)
    assert (reply.status, reply.activeModelId) == (VStatus.DEFINED, "new")
    await client.register("ready", load=True, sync=True)
    await client.ensure_loaded("new")
    reply = await client.set_vmodel("v", "ready")
    assert (reply.status, reply.activeModelId) == (VStatus.DEFINED, "ready")


async def test_another_leader_goes_on_with_a_transition(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(3)]
    await mesh.settle()
    await clients[2].set_vmodel("v", "old", info=INFO)
    await _copies(mesh, "old", 3)
    leader = next(instance for instance in mesh.instances if instance.registry.election.leading)
    number = mesh.instances.index(leader)
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 1.0
    await clients[2].set_vmodel("v", "new", info=INFO)
    await eventually(lambda: mesh.loads("new") > 0)
    await leader.registry.election.close()
    other = clients[(number + 1) % 3]
    await eventually(lambda: _defined(other, "v", "new"), 20)
    assert _references(mesh) == {"old": 0, "new": 1}


async def test_no_request_fails_while_a_vmodel_moves_and_its_old_model_goes(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].set_vmodel("v", "m-0", info=INFO, autoDeleteTargetModel=True, loadNow=True, sync=True)
    stop = asyncio.Event()
    answers: set[bytes] = set()

    async def ask(client: Client) -> None:
        while not stop.is_set():
            answers.add(await client.infer_vmodel("v"))

    asking = [asyncio.create_task(ask(client)) for client in clients for _ in range(3)]
    for number in range(1, 6):
        reply = await clients[number % 2].set_vmodel(
            "v", f"m-{number}", info=INFO, autoDeleteTargetModel=True, sync=True
        )
        assert reply.activeModelId == f"m-{number}"
        await asyncio.sleep(0.1)
    stop.set()
    await asyncio.gather(*asking)
    assert answers == {f"m-{number}:x".encode() for number in range(6)}
    assert _references(mesh) == {"m-5": 1}


async def test_a_vmodel_whose_model_is_gone_says_so(mesh: Mesh) -> None:
    client = await mesh.add()
    vmodels = mesh.instances[0].registry.vmodels
    await vmodels.update("v", lambda _: VModelRecord(active="gone", target="gone"))
    await _refused(
        client.infer_vmodel("v"), grpc.StatusCode.INTERNAL, "Target model gone of vmodel v not found"
    )
    assert (await client.vmodel_status("v")).activeModelStatus.status == Status.NOT_FOUND
    # So does one whose record names none, as a tool may have left it.
    await vmodels.update("w", lambda _: VModelRecord(target="gone"))
    await _refused(
        client.infer_vmodel("w"), grpc.StatusCode.INTERNAL, "Target model gone of vmodel w not found"
    )
    await client.delete_vmodel("w")
    # Setting it with the model's attributes makes it whole.
    await client.set_vmodel("v", "gone", info=INFO)
    assert await client.infer_vmodel("v") == b"gone:x"
    assert _references(mesh) == {"gone": 1}


async def test_a_vmodel_that_moved_without_being_noticed_leads_to_its_new_model(mesh: Mesh) -> None:
    client = await mesh.add()
    instance = mesh.instances[0]
    await client.set_vmodel("v", "old", info=INFO, autoDeleteTargetModel=True)
    await client.register("new")
    # This instance hears of nothing any more: its mirrors are as they were.
    for mirror in (instance.registry.vmodels, instance.registry.models):
        await mirror.close()
    store = mesh.registry.client()
    prefix = instance.registry.keys.vmodels
    entry, _ = await store.read(prefix + "v")
    assert entry is not None
    await store.transact(
        {},
        [
            Put(prefix + "v", entry.value.replace(b'"old"', b'"new"')),
            Delete(instance.registry.keys.models + "old"),
        ],
    )
    assert await client.infer_vmodel("v") == b"new:x"


async def test_a_record_that_cannot_be_read_is_named(mesh: Mesh) -> None:
    client = await mesh.add()
    registry = mesh.instances[0].registry
    await mesh.registry.client().transact({}, [Put(registry.keys.vmodels + "v", b"no json")])
    await eventually(lambda: "v" in registry.vmodels.invalid)
    for call in (client.infer_vmodel("v"), client.set_vmodel("v", "m", info=INFO), client.vmodel_status("v")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "delete that key and set it anew" in str(error.value.details())


async def test_counts_that_were_wrong_are_mended(mesh: Mesh) -> None:
    client = await mesh.add(vmodels=VModelSettings(audit_interval_ms=100))
    await client.set_vmodel("v", "m", info=INFO)
    await client.register("leaked")
    models = mesh.instances[0].registry.models
    await models.update("leaked", lambda record: record.but(refs=1))  # type: ignore[union-attr]
    await models.update("m", lambda record: record.but(refs=3))  # type: ignore[union-attr]
    await models.update("left", lambda _: ModelRecord(type="test", refs=1, auto_delete=True))
    await eventually(lambda: _references(mesh) == {"m": 1, "leaked": 0})
    await client.unregister("leaked")


async def _shared(client: Client, requests: int) -> dict[bytes, int]:
    """How many requests each model answered."""
    answers = Counter([await client.infer_vmodel("v") for _ in range(requests)])
    return {answer.removesuffix(b":x"): count for answer, count in answers.items()}


async def _set_canary(client: Client, share: float | None, model_id: str = "new") -> vmodels_pb2.VModel:
    canary = None if share is None else vmodels_pb2.Portion(model_id=model_id, share=share)
    request = vmodels_pb2.SetCanaryRequest(vmodel_id="v", canary=canary, sync=True)
    return await client.vmodels.SetCanary(request, timeout=20)


async def _set_shadow(client: Client, share: float | None, model_id: str = "new") -> vmodels_pb2.VModel:
    shadow = None if share is None else vmodels_pb2.Portion(model_id=model_id, share=share)
    request = vmodels_pb2.SetShadowRequest(vmodel_id="v", shadow=shadow, sync=True)
    return await client.vmodels.SetShadow(request, timeout=20)


async def test_a_canary_answers_its_share_on_every_instance_until_it_takes_over(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    await clients[0].register("new")
    reply = await _set_canary(clients[0], 0.25)
    assert (reply.active_model_id, reply.canary.model_id, reply.canary.share) == ("old", "new", 0.25)
    for client in clients:
        await eventually(lambda client=client: _answers(client, b"new"), 20)
        shares = await _shared(client, 100)
        assert 23 <= shares[b"new"] <= 27
        assert shares[b"old"] == 100 - shares[b"new"]
    await _refused(
        clients[0].unregister("new"), grpc.StatusCode.FAILED_PRECONDITION, "Model new has referents"
    )

    await clients[1].set_vmodel("v", "new", sync=True)
    listed = (await clients[0].vmodels.List(vmodels_pb2.ListRequest(), timeout=20)).vmodels
    assert [(one.active_model_id, one.HasField("canary")) for one in listed] == [("new", False)]
    for client in clients:
        await eventually(lambda client=client: _is(client, b"new:x"))
        assert await _shared(client, 20) == {b"new": 20}
    assert _references(mesh) == {"old": 0, "new": 1}


async def _answers(client: Client, model_id: bytes) -> bool:
    return model_id in await _shared(client, 10)


async def test_every_instance_hears_at_once_that_a_canary_is_loaded(mesh: Mesh) -> None:
    # Loads may take so long here that a copy elsewhere would be taken to be on its way for half a minute.
    for _ in range(3):
        await mesh.add(ScriptedRuntime(mesh.socket(), loading_timeout_ms=90_000))
    await mesh.settle()
    client = mesh.clients[0]
    await client.set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    await client.register("new")
    await client.register("next")
    await client.ensure_loaded("next")
    # One is loaded once it is on trial, the other one was before.
    for name in (b"new", b"next"):
        await _set_canary(client, 0.5, name.decode())
        for one in mesh.clients:
            await eventually(lambda one=one, name=name: _answers(one, name), 8)


async def test_a_canary_is_loaded_while_its_vmodel_is_used(mesh: Mesh) -> None:
    client = await mesh.add(
        vmodels=VModelSettings(review_interval_ms=100),
        copies=CopySettings(look_interval_ms=200, idle_ttl_s=1),
        upkeep=UpkeepSettings(preload=False),
    )
    runtime = mesh.runtimes[0]
    await client.set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    await client.register("new")
    await _set_canary(client, 0.5)
    await eventually(lambda: _answers(client, b"new"))
    await eventually(lambda: not runtime.loaded, 20)
    loads = runtime.loads["new"]
    await asyncio.sleep(1.5)
    assert runtime.loads["new"] == loads, "what nobody uses is not loaded to be unloaded"
    await eventually(lambda: _answers(client, b"new"))


async def test_a_canary_that_is_not_loaded_costs_no_request_anything(mesh: Mesh) -> None:
    client = await mesh.add(vmodels=VModelSettings(review_interval_ms=100))
    runtime = mesh.runtimes[0]
    await client.set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    await client.register("new")
    runtime.refuse["new"] = (grpc.StatusCode.INVALID_ARGUMENT, "the file is broken")
    await _set_canary(client, 0.5)
    assert await _shared(client, 20) == {b"old": 20}
    # Another instance can load it, and the leader sees to that.
    await mesh.add()
    await eventually(lambda: _answers(client, b"new"), 20)
    # It goes, and its requests go to the active model.
    loaded_at = next(instance for instance in mesh.instances if instance.parts.loader.is_serving("new"))  # type: ignore[union-attr]
    mesh.runtimes[1].refuse["new"] = runtime.refuse["new"]
    loaded_at.parts.loader.remove("new", RemovalReason.SCALE_DOWN)  # type: ignore[union-attr]
    await _set_canary(client, None)
    assert await _shared(client, 20) == {b"old": 20}
    assert _references(mesh) == {"old": 1, "new": 0}


@pytest.mark.parametrize(
    ("portion", "code", "message"),
    [
        (
            vmodels_pb2.Portion(model_id="new", share=1),
            grpc.StatusCode.INVALID_ARGUMENT,
            "canary.share is 1: it must be less than 1; set the vmodel's target to new for it to answer all requests",
        ),
        (
            vmodels_pb2.Portion(model_id="new", share=-0.5),
            grpc.StatusCode.INVALID_ARGUMENT,
            "share is -0.5: it must be 1e-06 to 1, such as 0.05 for one in twenty",
        ),
        (
            vmodels_pb2.Portion(model_id="nobody", share=0.1),
            grpc.StatusCode.NOT_FOUND,
            "Canary model nobody not found: register it first",
        ),
        (
            vmodels_pb2.Portion(model_id="old", share=0.1),
            grpc.StatusCode.FAILED_PRECONDITION,
            "model old is the active model of vmodel v already: its canary must be another one",
        ),
    ],
)
async def test_a_canary_that_cannot_be_is_refused(
    mesh: Mesh, portion: vmodels_pb2.Portion, code: grpc.StatusCode, message: str
) -> None:
    client = await mesh.add()
    await client.set_vmodel("v", "old", info=INFO)
    await client.register("new")
    await _refused(_set_canary(client, portion.share, portion.model_id), code, message)
    assert _references(mesh) == {"old": 1, "new": 0}


async def test_a_shadow_gets_copies_of_requests_and_its_differences_are_reported(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    await clients[0].register("new")
    await _set_shadow(clients[0], 1.0)

    async def compare(client: Client) -> vmodels_pb2.Comparison:
        request = vmodels_pb2.CompareShadowRequest(vmodel_id="v")
        return await client.vmodels.CompareShadow(request, timeout=20)

    async def compared(client: Client) -> bool:
        before = (await compare(clients[0])).different
        await client.infer_vmodel("v")
        await asyncio.sleep(0.1)
        return (await compare(clients[0])).different > before

    for client in clients:
        await eventually(lambda client=client: compared(client), 20)
    report = await compare(clients[1])
    assert (report.shadow_model_id, report.equal, report.shadow_failed) == ("new", 0, 0)
    assert {difference.instance_id for difference in report.differences} == {
        instance.settings.instance_id for instance in mesh.instances
    }
    assert {difference.primary_model_id for difference in report.differences} == {"old"}
    assert await _shared(clients[0], 20) == {b"old": 20}, "clients get the answers of the active model alone"

    for runtime in mesh.runtimes:
        runtime.refuse_calls["new"] = (grpc.StatusCode.INTERNAL, "it broke")
    # What was found before is read, so that it takes no place in the next batch.
    await compare(clients[1])
    assert await _shared(clients[0], 20) == {b"old": 20}

    async def failed() -> bool:
        return (await compare(clients[1])).shadow_failed >= 20

    await eventually(failed)
    report = await compare(clients[1])
    assert report.differences[0].shadow_message == "it broke"
    assert report.differences[0].shadow_code == grpc.StatusCode.INTERNAL.value[0]

    exported = {
        (sample.labels["modelId"], sample.labels["result"]): sample.value
        for instance in mesh.instances
        for family in instance.parts.collector.collect()
        for sample in family.samples
        if sample.name == "modelmesh_shadow_requests" and sample.labels["vModelId"] == "v"
    }
    assert exported["new", "different"] > 0
    assert exported["new", "equal"] == 0

    await _set_shadow(clients[0], None)
    calls = sum(runtime.calls["new"] for runtime in mesh.runtimes)
    await asyncio.sleep(0.1)
    assert await _shared(clients[0], 20) == {b"old": 20}
    assert sum(runtime.calls["new"] for runtime in mesh.runtimes) == calls
    await _refused(
        compare(clients[0]),
        grpc.StatusCode.FAILED_PRECONDITION,
        "vmodel v has no shadow: give it one, or name one that it had in shadow_model_id",
    )


async def test_what_is_set_here_is_told_there_and_what_is_known_is_told_while_the_registry_is_away(
    mesh: Mesh,
) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    for number in range(5):
        target = f"new-{number}"
        await clients[0].set_vmodel("v", target, info=INFO, force=True)
        assert (await clients[1].vmodel_status("v")).targetModelId == target
    assert await clients[1].infer_vmodel("v") == b"new-4:x"
    mesh.registry.stop()
    assert (await clients[1].vmodel_status("v")).activeModelId == "new-4"
    assert await clients[1].infer_vmodel("v") == b"new-4:x"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await clients[1].set_vmodel("v", "old")
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    mesh.registry.start()


async def test_a_caller_that_waited_long_enough_is_told_that_the_transition_goes_on(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.instance.vmodels.vmodels.SYNC_TIMEOUT_S", 0.2)
    client = await mesh.add()
    await client.set_vmodel("v", "old", info=INFO, loadNow=True, sync=True)
    mesh.runtimes[0].load_delay_s = 1.0
    await _refused(
        client.set_vmodel("v", "new", info=INFO, sync=True),
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "model new was not ready for vmodel v after 0.2 s; the transition goes on, and getVModelStatus tells how",
    )
    await eventually(lambda: _defined(client, "v", "new"))


async def test_lists_come_in_pages_and_by_owner(mesh: Mesh) -> None:
    client = await mesh.add()
    for number in range(5):
        await client.set_vmodel(f"v-{number}", "m", info=INFO, owner="odd" if number % 2 else "even")

    async def ids(**fields: Any) -> tuple[list[str], str]:
        reply = await client.vmodels.List(vmodels_pb2.ListRequest(**fields), timeout=20)
        assert reply.total == 5
        return [vmodel.vmodel_id for vmodel in reply.vmodels], reply.next

    assert await ids(limit=2) == (["v-0", "v-1"], "v-1")
    assert await ids(limit=2, after="v-3") == (["v-4"], "")
    assert await ids(owner="odd") == (["v-1", "v-3"], "")
    assert await ids(prefix="v-2") == (["v-2"], "")
    assert _references(mesh) == {"m": 5}


async def test_a_transition_goes_on_when_the_registry_is_back(mesh: Mesh) -> None:
    clients = [await mesh.add(vmodels=VModelSettings(review_interval_ms=200)) for _ in range(2)]
    await mesh.settle()
    await clients[0].set_vmodel("v", "old", info=INFO, autoDeleteTargetModel=True, loadNow=True, sync=True)
    for runtime in mesh.runtimes:
        runtime.load_delay_s = 0.5
    await clients[0].set_vmodel("v", "new", info=INFO)
    await eventually(lambda: mesh.loads("new") > 0)
    mesh.registry.stop()
    await asyncio.sleep(1)
    for client in clients:
        assert await client.infer_vmodel("v") == b"old:x"
    mesh.registry.start()
    await eventually(lambda: _defined(clients[1], "v", "new"), 20)
    for client in clients:
        await eventually(lambda client=client: _is(client, b"new:x"))
    assert _references(mesh) == {"new": 1}
