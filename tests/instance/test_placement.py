"""Models go where their types, their sizes and the other copies say."""

from pathlib import Path

import grpc
import pytest

from mesh.instance import PlacementSettings
from mesh.placement import TypeConstraints
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

    instances = [instance.parts.candidates.ranked for instance in mesh.instances]
    rules.write_text('{"speech": {"required": "tpu"}}')
    await eventually(lambda: caplog.text.count("what it said before stays in effect") == 3)
    with pytest.raises(grpc.aio.AioRpcError):
        await plain.infer("s")

    rules.write_text('{"speech": {"required": ["gpu"]}}')
    expected = TypeConstraints.parse(rules.read_text())
    await eventually(lambda: all(ranked.constraints == expected for ranked in instances))
    assert await plain.infer("s") == b"s:x"
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
