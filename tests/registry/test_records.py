"""Records read and write the JSON of KServe ModelMesh."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.registry import (
    EMPTY_CACHE,
    INSTANCES,
    MODELS,
    TEXT,
    VMODELS,
    Entry,
    InstanceRecord,
    InvalidRecord,
    ModelRecord,
    VModelRecord,
)

INSTANCE = (
    b'{"startTime":1795257748187,"vers":1577836800000,"loc":"127.0.0.1","labels":["gpu","zz"],'
    b'"actionable":true,"lruTime":1795254210491,"count":1,"cap":124672,"used":6400,"lThreads":2,"lInProg":1}'
)
MODEL: dict[str, Any] = {
    "type": "sklearn",
    "encKey": '{"bucket":"b"}',
    "mPath": "a/b",
    "instanceIds": {"i1": 5, "i2": 6},
    "failedIn": {"i3": 7},
    "fails": {"i3": {"msg": "no memory"}},
    "refs": 2,
    "autoDel": True,
    "lu": 8,
    "lul": 9,
    "policy": {"minCopies": 2, "aLaterMember": [1]},
}


def entry(value: bytes) -> Entry:
    return Entry("/p/x", value, 1, 1)


def test_reads_and_writes_an_instance_of_modelmesh_unchanged() -> None:
    record = INSTANCES.decode(entry(INSTANCE))
    assert (record.location, record.labels, record.capacity, record.used) == (
        "127.0.0.1",
        ("gpu", "zz"),
        124672,
        6400,
    )
    assert (record.loading_threads, record.loads_in_progress, record.shutting_down) == (2, 1, False)
    assert json.loads(INSTANCES.encode(record)) == json.loads(INSTANCE)


def test_reads_and_writes_a_model_unchanged() -> None:
    record = MODELS.decode(entry(json.dumps(MODEL).encode()))
    assert record == ModelRecord(
        type="sklearn",
        key='{"bucket":"b"}',
        path="a/b",
        copies={"i1": 5, "i2": 6},
        failures={"i3": 7},
        failure_messages={"i3": {"msg": "no memory"}},
        refs=2,
        auto_delete=True,
        last_used=8,
        last_unload=9,
        policy={"minCopies": 2, "aLaterMember": [1]},
    )
    assert record.failure_message("i3") == "no memory"
    assert json.loads(MODELS.encode(record)) == MODEL


def test_reads_and_writes_a_vmodel_unchanged() -> None:
    value = b'{"o":"me","amid":"m1","tmid":"m2","failed":true}'
    record = VMODELS.decode(entry(value))
    assert record == VModelRecord(owner="me", active="m1", target="m2", failed=True)
    assert VMODELS.encode(record) == value


def test_a_model_without_type_is_of_the_historic_one() -> None:
    assert MODELS.decode(entry(b"{}")).type == "NLCLASSIFIER"


def test_leaves_out_what_is_default() -> None:
    assert MODELS.encode(ModelRecord(type="x", copies={}, failures={}, policy={})) == b'{"type":"x"}'
    assert VMODELS.encode(VModelRecord()) == b"{}"
    assert INSTANCES.encode(InstanceRecord(oldest_use=EMPTY_CACHE)) == b'{"lruTime":9223372036854775807}'


def test_null_means_default() -> None:
    record = MODELS.decode(entry(b'{"type":"x","failedIn":null,"lu":null}'))
    assert record == ModelRecord(type="x")


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"\xff", b'{"lu":"late"}', b'{"instanceIds":[]}'])
def test_says_what_is_no_record(value: bytes) -> None:
    with pytest.raises(InvalidRecord, match="/p/x: "):
        MODELS.decode(entry(value))


def test_says_what_is_no_text() -> None:
    assert TEXT.decode(entry("ä".encode())) == "ä"
    with pytest.raises(InvalidRecord):
        TEXT.decode(entry(b"\xff"))


names = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(names.filter(lambda name: name not in MODEL and name != "actionable"), values, max_size=4)
)
def test_members_of_other_releases_survive_a_rewrite(unknown: dict[str, Any]) -> None:
    value = json.dumps({**MODEL, **unknown}).encode()
    record = MODELS.decode(entry(value)).with_copy("i9", 99).with_failure("i1", 3, "m").with_use(1)
    written = json.loads(MODELS.encode(record))
    assert {name: written[name] for name in unknown} == unknown
    assert written["instanceIds"] == {"i1": 5, "i2": 6, "i9": 99}
    assert MODELS.decode(entry(MODELS.encode(record))) == record


def test_changes_make_new_records() -> None:
    record = ModelRecord(type="x", copies={"i1": 1, "i2": 2, "i3": 3, "i4": 4})
    assert record.with_copy("i5", 5).copies == {"i1": 1, "i2": 2, "i3": 3, "i4": 4, "i5": 5}
    assert record.copies == {"i1": 1, "i2": 2, "i3": 3, "i4": 4}
    three = record.without_copy("i1", unloaded=50)
    assert (three.copies, three.last_unload) == ({"i2": 2, "i3": 3, "i4": 4}, 50)
    assert three.without_copy("i2", unloaded=60).last_unload == 0
    assert record.without_copy("i1").last_unload == 0
    assert record.without_copy("nowhere") == record
    assert hash(record.type) == hash("x")


def test_failures_come_and_go_with_their_messages() -> None:
    record = ModelRecord(type="x").with_failure("i1", 10, "first").with_failure("i2", 20)
    assert (record.failures, record.failure_message("i1"), record.failure_message("i2")) == (
        {"i1": 10, "i2": 20},
        "first",
        "",
    )
    assert record.with_failure("i1", 30).failure_message("i1") == ""
    assert record.with_failure("i1", 30, "m", "too_large").failure_reason("i1") == "too_large"
    assert record.failure_reason("i1") == ""
    assert record.without_failure("i1") == ModelRecord(type="x", failures={"i2": 20})
    late = record.without_failures_before(20)
    assert (late.failures, late.failure_messages) == ({"i2": 20}, {})
    assert record.without_failures_before(21) == ModelRecord(type="x")


def test_use_never_goes_back() -> None:
    assert ModelRecord(type="x", last_used=5).with_use(4).last_used == 5
    assert ModelRecord(type="x", last_used=5).with_use(6).last_used == 6


def test_an_instance_sorts_its_labels() -> None:
    assert InstanceRecord(labels=("b", "a")).labels == ("a", "b")
