"""Whether a copy may be entered in a record, or leave it, is decided on the record as it is when it is written."""

import pytest

from mesh.registry import AddCopy, ConfirmCopy, ModelRecord, ResignCopy

TWO = ModelRecord(type="x", copies={"i1": 1, "i2": 2})


def live(instance: str) -> bool:
    return instance != "dead"


def leaving(instance: str) -> bool:
    return instance == "leaving"


def add(record: ModelRecord, *, enough: int = 1, beside: str = "", replaced: str = "") -> str:
    """Returns: why the copy was refused, or "" where it was entered."""
    change = AddCopy(
        "new",
        9,
        9,
        frozenset(beside.split()),
        live,
        enough=enough,
        replaced=frozenset(replaced.split()),
        is_leaving=leaving,
    )
    changed = change.apply(record)
    assert ("new" in changed.copies) == (change.refusal is None)
    if change.refusal is None:
        return ""
    assert changed == record
    return "most" if change.refusal.most else "look again" if change.refusal.look_again else "?"


@pytest.mark.parametrize(
    ("copies", "enough", "beside", "why"),
    [
        ("", 1, "", ""),
        ("i1", 1, "", "look again"),
        ("i1", 1, "i1", ""),
        ("dead", 1, "", ""),
        ("leaving", 1, "", "look again"),
        ("i1 i2", 2, "", "look again"),
        ("i1 i2", 3, "", ""),
        ("i1 dead", 2, "", ""),
        ("i1 leaving", 2, "", ""),
        ("i1 new", 2, "", ""),
    ],
)
def test_a_copy_is_entered_while_there_are_too_few(copies: str, enough: int, beside: str, why: str) -> None:
    record = ModelRecord(type="x", copies=dict.fromkeys(copies.split(), 1))
    assert add(record, enough=enough, beside=beside) == why


@pytest.mark.parametrize(
    ("copies", "beside", "replaced", "why"),
    [
        ("i1 i2", "i1 i2", "", "most"),
        ("i1 i2", "i1 i2", "i2", ""),
        ("i1 leaving", "i1 leaving", "", ""),
        ("i1 dead", "i1", "", ""),
        ("i1", "i1", "", ""),
    ],
)
def test_no_path_leads_beyond_the_most_that_a_model_may_have(
    copies: str, beside: str, replaced: str, why: str
) -> None:
    record = ModelRecord(type="x", copies=dict.fromkeys(copies.split(), 1), policy={"maxCopies": 2})
    assert add(record, beside=beside, replaced=replaced) == why


def test_a_copy_leaves_only_while_enough_others_stay() -> None:
    def resign(record: ModelRecord, keep: int, *, not_since_ms: int = 100) -> bool:
        change = ResignCopy("i1", 50, keep, lambda one: live(one) and not leaving(one), not_since_ms)
        changed = change.apply(record)
        assert change.done == ("i1" not in changed.copies)
        return change.done

    assert resign(TWO, 1)
    assert not resign(TWO, 2)
    assert not resign(ModelRecord(copies={"i1": 1, "leaving": 1, "dead": 1}), 1)
    assert resign(ModelRecord(copies={"i1": 1}), 0)
    assert not resign(TWO.but(last_unload=101), 1), "another one has just left"
    assert resign(ModelRecord(copies={"i2": 1}), 5), "it is not there any more"


def test_a_copy_is_ready_from_when_it_says_so_until_it_goes() -> None:
    ready = ConfirmCopy("i1").apply(TWO)
    assert ready.ready == ("i1",)
    assert ConfirmCopy("i2").apply(ready).ready == ("i1", "i2")
    assert ConfirmCopy("i3").apply(ready) == ready, "it has left meanwhile"
    assert ready.without_copy("i1").ready == ()
    assert ready.with_copy("i1", 9).ready == (), "it is loaded anew"
    assert ready.with_copy("i3", 9).ready == ("i1",)
