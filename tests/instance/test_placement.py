"""Models go where their types, their sizes and the other copies say."""

from pathlib import Path

import grpc
import pytest

from mesh.instance import PlacementSettings, assembly
from mesh.placement import TypeConstraints
from mesh.protos import admin_pb2
from tests.instance.meshes import Client, Mesh, eventually


async def reasons(client: Client, model_id: str) -> str:
    decisions = await client.explain(model_id)
    return "\n".join(
        f"{decision.summary}\n" + "\n".join(f"{one.score}{one.refused}" for one in decision.candidates)
        for decision in decisions
    )


async def test_types_live_where_their_labels_are_also_after_the_rules_have_changed(
    mesh: Mesh, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = tmp_path / "type-constraints"
    rules.write_text('{"vision": {"required": ["gpu"]}, "speech": {"required": ["tpu"]}}')
    placement = PlacementSettings(type_constraints_path=str(rules))
    plain = await mesh.add(placement=placement)
    await mesh.add(placement=placement)
    await mesh.add(placement=placement, labels=("gpu",))
    await mesh.settle()
    for number in range(6):
        await plain.register(f"v{number}", model_type="vision")
        assert await plain.infer(f"v{number}") == f"v{number}:x".encode()
    assert len(mesh.runtimes[2].loaded) == 6
    assert "lacks label gpu, which its type requires" in await reasons(plain, "v0")

    await plain.register("s", model_type="speech")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await plain.infer("s")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert refused.value.details() == (
        "There are no running instances that meet the label requirements of type speech: [tpu]"
    )
    # Who asked for the load without waiting reads it in the status.
    status = await plain.register("s", model_type="speech", load=True)
    assert status.status == status.LOADING_FAILED
    assert list(status.errors) == [refused.value.details()]

    instances = [instance.parts.candidates.ranked for instance in mesh.instances]
    rules.write_text('{"speech": {"required": "tpu"}}')
    await eventually(lambda: caplog.text.count("what it said before stays in effect") == 3)
    with pytest.raises(grpc.aio.AioRpcError):
        await plain.infer("s")

    rules.write_text('{"speech": {"required": ["gpu"]}}')
    expected = TypeConstraints.parse(rules.read_text())
    await eventually(lambda: all(ranked.constraints == expected for ranked in instances))
    assert await plain.infer("s") == b"s:x"

    async def all_say_so() -> bool:
        listed = (await plain.admin.ListInstances(admin_pb2.ListInstancesRequest())).instances
        return [instance.type_rules for instance in listed] == 3 * [expected.digest]

    await eventually(all_say_so)
    assert "s" in mesh.runtimes[2].loaded


async def test_a_peer_that_has_not_heard_of_new_rules_is_refused_and_goes_elsewhere(mesh: Mesh) -> None:
    old_rules = await mesh.add(router=True)
    rules = TypeConstraints.parse('{"vision": {"required": ["gpu"]}}')
    placement = PlacementSettings(type_constraints=rules)
    await mesh.add(placement=placement)
    await mesh.add(placement=placement, labels=("gpu",))
    await mesh.settle()
    for number in range(8):
        await old_rules.register(f"v{number}", model_type="vision")
        assert await old_rules.infer(f"v{number}") == f"v{number}:x".encode()
    assert not mesh.runtimes[0].loaded
    assert len(mesh.runtimes[1].loaded) == 8


async def test_copies_spread_over_zones_then_hosts(mesh: Mesh) -> None:
    places = [("z1", "h1"), ("z1", "h1"), ("z1", "h2"), ("z2", "h3"), ("z2", "h3")]
    for zone, host in places:
        await mesh.add(zone=zone, location=host)
    await mesh.settle()
    here, client = mesh.instances[0], mesh.clients[0]
    where = {
        instance.settings.instance_id: (instance.settings.zone, instance.settings.location)
        for instance in mesh.instances
    }
    for number in range(5):
        model_id = f"m{number}"
        await client.register(model_id)
        await here.parts.placer.raise_copies(model_id, 3, last_used_ms=0, why="test")
        copies = (await client.describe(model_id)).copies
        zones, hosts = zip(*(where[copy.instance_id] for copy in copies), strict=True)
        assert set(zones) == {"z1", "z2"}
        # Where two of them have to share a zone, they share no host unless it has but one.
        assert len(set(hosts)) == 3 or sorted(hosts).count("h3") == 2, (zones, hosts)
        assert "set aside: zone" in await reasons(client, model_id)


async def test_models_stay_off_instances_that_a_rollout_is_about_to_replace(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = assembly.now_ms
    with monkeypatch.context() as earlier:
        # Instead of waiting for as long as lies between two rollouts at least: their clocks are behind.
        earlier.setattr(assembly, "now_ms", lambda: now_ms() - 70_000)
        for letter in "bc":
            await mesh.add(instance_id=f"bbbbbb-xxxx{letter}")
    old = mesh.clients[0]
    await old.register("before")
    await old.infer("before")
    await mesh.add(instance_id="cccccc-xxxxb")
    await mesh.settle()
    for number in range(6):
        await old.register(f"m{number}")
        await old.infer(f"m{number}")
    assert mesh.runtimes[2].loaded == {f"m{number}" for number in range(6)}
    assert "its replica set is being replaced" in await reasons(old, "m0")
    assert await old.infer("before") == b"before:x"


async def test_newer_deployments_get_the_new_copies(mesh: Mesh) -> None:
    older = await mesh.add(version="build-20260101-2")
    await mesh.add(version="build-20260102-1")
    await mesh.add(version="v0.12.0")
    await mesh.settle()
    for number in range(5):
        await older.register(f"m{number}")
        assert await older.infer(f"m{number}") == f"m{number}:x".encode()
    assert [len(runtime.loaded) for runtime in mesh.runtimes] == [0, 5, 0]
