"""Copies that are refused, and not, by mirrors that may lag behind."""

from functools import partial

import pytest

from mesh.registry import (
    MODELS,
    AddCopy,
    CopyRefused,
    MemoryCluster,
    Mirror,
    ModelRecord,
    RemoveCopy,
    apply_together,
)


def add_copy(instance: str) -> AddCopy:
    return AddCopy(instance, 1_000, 1_000, frozenset(), lambda _: True)


async def test_a_copy_is_not_refused_for_one_that_has_just_gone() -> None:
    cluster = MemoryCluster()
    ahead, behind = (Mirror(cluster.client(), "models/", MODELS) for _ in range(2))
    for mirror in (ahead, behind):
        mirror.start()
    await ahead.update("m", lambda _: ModelRecord(type="t").with_copy("a", 1))
    for mirror in (ahead, behind):
        await mirror.wait_ready(5)
    await behind.update("m", lambda record: record.with_use(5) if record else None)
    await behind.close()
    await ahead.update("m", partial(apply_together, changes=[RemoveCopy("a", 2)]))
    assert "a" in behind["m"].copies
    change = add_copy("b")
    await behind.update("m", partial(apply_together, changes=[change]))
    assert change.refusal is None
    entry = cluster.read("models/m")
    assert entry is not None
    assert set(MODELS.decode(entry).copies) == {"b"}
    await ahead.close()


async def test_a_copy_is_refused_for_one_that_is_there() -> None:
    mirror = Mirror(MemoryCluster().client(), "models/", MODELS)
    mirror.start()
    await mirror.wait_ready(5)
    await mirror.update("m", lambda _: ModelRecord(type="t").with_copy("a", 1))
    change = add_copy("b")
    with pytest.raises(CopyRefused):
        await mirror.update("m", partial(apply_together, changes=[change]))
    assert change.refusal is not None
    assert change.refusal.look_again
    assert set(mirror["m"].copies) == {"a"}
    await mirror.close()
