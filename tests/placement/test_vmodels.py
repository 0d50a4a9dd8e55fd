"""What calls and the leader make of vmodels, and that every model's references are those of the vmodels, always."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.placement.vmodels import (
    Attributes,
    Change,
    CopyCount,
    CopyRefused,
    LookAgain,
    MakeCopies,
    Park,
    Portion,
    Referent,
    Refused,
    Role,
    SetPortion,
    SetTarget,
    Switch,
    TransitionStep,
    TransitionView,
    VModel,
    VModelRefused,
    count_references,
    delete,
    miscounted,
    next_transition_step,
    park,
    set_portion,
    set_target,
    switch,
)

NOW = 1_800_000_000_000
HOUR = 3_600_000
A = Attributes("sklearn", "a", "")
MODELS = {"a": Referent(A, 1, last_used_ms=NOW - HOUR), "b": Referent(A, last_used_ms=NOW - 5)}
ON_A = VModel("a", "a", "me")
BUSY_A = {"a": CopyCount(2, 2), "b": CopyCount()}


def _set(target: str = "b", vmodel: VModel | None = ON_A, models: Any = MODELS, **wanted: Any) -> Change:
    wanted.setdefault("copies", BUSY_A)
    return set_target(SetTarget("v", target, **wanted), vmodel, models, NOW)


def test_a_target_waits_for_copies_and_both_models_are_referred_to() -> None:
    change = _set()
    assert change.vmodel == VModel("a", "b", "me")
    assert change.models["b"] == Referent(A, 1, last_used_ms=NOW - 5)
    assert "a" not in change.models


@pytest.mark.parametrize(
    "wanted",
    [
        {"force": True},
        {"copies": {"a": CopyCount(0, 0), "b": CopyCount()}},
        {"copies": {"a": CopyCount(2, 2), "b": CopyCount(2, 2)}},
    ],
)
def test_it_moves_at_once_where_nobody_would_notice(wanted: dict[str, Any]) -> None:
    change = _set(**wanted)
    assert change.vmodel == VModel("b", "b", "me")
    assert change.models["a"] == replace(MODELS["a"], references=0)


@pytest.mark.parametrize(
    "copies",
    [
        {"a": CopyCount(2, 2), "b": CopyCount(1, 2)},
        # The vmodel moved to a while copies of another model were counted.
        {"other": CopyCount(), "b": CopyCount()},
    ],
)
def test_it_does_not_move_where_requests_would_notice(copies: dict[str, CopyCount]) -> None:
    change = _set(copies=copies)
    assert change.vmodel is not None
    assert change.vmodel.active == "a"


@pytest.mark.parametrize(
    ("vmodel", "wanted", "reason", "message"),
    [
        (None, {"expected": "a"}, Refused.UNEXPECTED_TARGET, "vmodel v not found"),
        (
            ON_A,
            {"expected": "c"},
            Refused.UNEXPECTED_TARGET,
            "Existing target model a does not match expected c",
        ),
        (
            ON_A,
            {"owner": "you"},
            Refused.OTHER_OWNER,
            'vmodel v already exists with different owner "me"',
        ),
        (ON_A, {"target": "c"}, Refused.MODEL_NOT_FOUND, "Target model c not found"),
        (
            ON_A,
            {"attributes": Attributes("onnx")},
            Refused.OTHER_ATTRIBUTES,
            "Target model b already exists with different attribute values",
        ),
        (None, {"update_only": True}, Refused.VMODEL_NOT_FOUND, "vmodel v not found"),
    ],
)
def test_refusals_are_those_that_clients_know(
    vmodel: VModel | None, wanted: dict[str, Any], reason: Refused, message: str
) -> None:
    with pytest.raises(VModelRefused) as refused:
        _set(vmodel=vmodel, **wanted)
    assert (refused.value.reason, refused.value.message) == (reason, message)


@pytest.mark.parametrize("expected", ["a", "b"])
def test_an_expected_target_may_be_reached_already(expected: str) -> None:
    moved = VModel("b", "b")
    models = {"b": replace(MODELS["b"], references=1)}
    assert _set(vmodel=moved, models=models, expected=expected) == Change(moved)


def test_a_created_vmodel_has_an_owner_and_its_model_counts_as_used_a_while_ago() -> None:
    wanted: dict[str, Any] = {"attributes": A, "auto_delete": True, "default_owner": "us"}
    change = _set(vmodel=None, models={"b": None}, **wanted)
    assert change.vmodel == VModel("b", "b", "us")
    assert change.models["b"] == Referent(A, 1, auto_delete=True, last_used_ms=NOW - 6 * HOUR)
    loaded = _set(vmodel=None, models={"b": None}, load_now=True, owner="you", **wanted)
    assert loaded.vmodel == VModel("b", "b", "you")
    assert loaded.models["b"] == Referent(A, 1, auto_delete=True, last_used_ms=NOW - HOUR)


def test_a_model_never_gets_older_nor_loses_its_way_of_going() -> None:
    assert _set(auto_delete=True).models["b"] == Referent(A, 1, last_used_ms=NOW - 5)
    old = {**MODELS, "b": Referent(A, last_used_ms=1)}
    changed = _set(models=old).models["b"]
    assert changed is not None
    assert changed.last_used_ms == NOW - HOUR, "as recent as the active model"


def test_a_record_that_was_lost_is_made_anew_for_the_vmodel_that_needs_it() -> None:
    change = _set("a", models={"a": None}, attributes=A)
    assert change == Change(ON_A, {"a": Referent(A, 1)})


def test_another_owner_cannot_delete() -> None:
    assert delete(ON_A, MODELS, owner="you") == Change(ON_A)
    assert delete(ON_A, MODELS, owner="me").vmodel is None
    assert delete(None, {}) == Change(None)


def test_late_news_of_a_transition_that_was_overtaken_change_nothing() -> None:
    overtaken = VModel("a", "c")
    assert switch(overtaken, "b", MODELS) == Change(overtaken)
    assert park(overtaken, "b") == Change(overtaken)
    assert switch(ON_A, "a", MODELS) == Change(ON_A)


@pytest.mark.parametrize("role", Role)
def test_a_canary_or_shadow_is_referred_to_until_it_ends_or_takes_over(role: Role) -> None:
    change = set_portion(SetPortion("v", role, Portion("b", 0.1), "me"), ON_A, MODELS)
    assert change.vmodel is not None
    assert getattr(change.vmodel, role) == Portion("b", 0.1)
    assert change.models == {"b": replace(MODELS["b"], references=1)}

    models = {**MODELS, **change.models}
    ended = set_portion(SetPortion("v", role, None), change.vmodel, models)
    assert ended == Change(ON_A, {"b": MODELS["b"]})
    promoted = _set(vmodel=change.vmodel, models=models, force=True)
    assert promoted == Change(
        VModel("b", "b", "me"), {"a": replace(MODELS["a"], references=0), "b": change.models["b"]}
    ), "what took over is no portion any more, and is referred to once"


@pytest.mark.parametrize(
    ("vmodel", "portion", "owner", "reason"),
    [
        (None, Portion("b", 0.1), "", Refused.VMODEL_NOT_FOUND),
        (ON_A, Portion("b", 0.1), "you", Refused.OTHER_OWNER),
        (ON_A, Portion("c", 0.1), "", Refused.MODEL_NOT_FOUND),
        (ON_A, Portion("a", 0.1), "", Refused.ACTIVE_MODEL),
    ],
)
def test_what_cannot_be_a_canary_is_refused(
    vmodel: VModel | None, portion: Portion, owner: str, reason: Refused
) -> None:
    with pytest.raises(VModelRefused) as refused:
        set_portion(SetPortion("v", Role.CANARY, portion, owner), vmodel, MODELS)
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("view", "step"),
    [
        (TransitionView(CopyCount(0, 0), CopyCount()), Switch("the active model has no copy")),
        (TransitionView(CopyCount(3, 3), CopyCount()), MakeCopies(3)),
        (TransitionView(CopyCount(3, 3), CopyCount(1, 2)), MakeCopies(1)),
        (TransitionView(CopyCount(2, 2), CopyCount(1, 2)), LookAgain(250)),
        (
            TransitionView(CopyCount(2, 2), CopyCount(2, 2)),
            Switch("it has 2 copies, as many as the active model"),
        ),
        (
            TransitionView(CopyCount(3, 3), CopyCount(1, 1), most=1),
            Switch("it has 1 copy, as many as its policy allows"),
        ),
        (TransitionView(CopyCount(3, 3), CopyCount(1, 1), most=2), MakeCopies(1)),
        (TransitionView(CopyCount(2, 2), CopyCount(), CopyRefused("broken")), Park("broken")),
        (
            TransitionView(CopyCount(2, 2), CopyCount(1, 1), CopyRefused("full"), waited_ms=599_999),
            LookAgain(5_000),
        ),
        (
            TransitionView(CopyCount(2, 2), CopyCount(1, 1), CopyRefused("full"), waited_ms=600_000),
            Switch("it has 1 copy, the active model 2, and more are not to be had: full"),
        ),
        (
            TransitionView(CopyCount(3, 3), CopyCount(2, 2), CopyRefused("no more", everywhere=True)),
            Switch("it has 2 copies, the active model 3, and more are not to be had: no more"),
        ),
    ],
)
def test_a_target_gets_as_many_copies_as_the_active_model(view: TransitionView, step: TransitionStep) -> None:
    assert next_transition_step(view) == step


_VMODELS = st.sampled_from(["v", "w", "x"])
_MODELS = st.sampled_from(["a", "b", "c", "d"])
_COUNTS = st.builds(
    lambda loaded, more: CopyCount(loaded, loaded + more), st.integers(0, 2), st.integers(0, 2)
)


class References(RuleBasedStateMachine):
    """Calls and leaders on one registry: each decides by what it read, and is overtaken by the others.

    A transaction is written if the records are those that were read, else not at all; a process that dies between
    two transactions is one that makes no second one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vmodels: dict[str, VModel] = {}
        self.models: dict[str, Referent] = {}
        self.late: list[tuple[str, Any, dict[str, Any], Change]] = []

    def _decide(self, vmodel_id: str, decide: Any, *also: str) -> None:
        vmodel = self.vmodels.get(vmodel_id)
        ids = {*also, *(vmodel.models if vmodel else ())}
        read = {model_id: self.models.get(model_id) for model_id in ids}
        try:
            change = decide(vmodel, read)
        except VModelRefused:
            return
        self.late.append((vmodel_id, vmodel, read, change))

    @rule(
        vmodel_id=_VMODELS,
        model_id=_MODELS,
        force=st.booleans(),
        creates=st.booleans(),
        auto_delete=st.booleans(),
        active=_COUNTS,
        ready=_COUNTS,
    )
    def set(
        self,
        vmodel_id: str,
        model_id: str,
        force: bool,
        creates: bool,
        auto_delete: bool,
        active: CopyCount,
        ready: CopyCount,
    ) -> None:
        before = self.vmodels.get(vmodel_id)
        wanted = SetTarget(
            vmodel_id,
            model_id,
            attributes=A if creates else None,
            auto_delete=auto_delete,
            force=force,
            copies={model_id: ready} | ({before.active: active} if before else {}),
        )
        self._decide(vmodel_id, lambda vmodel, models: set_target(wanted, vmodel, models, NOW), model_id)

    @rule(vmodel_id=_VMODELS)
    def delete(self, vmodel_id: str) -> None:
        self._decide(vmodel_id, delete)

    @rule(vmodel_id=_VMODELS, model_id=_MODELS)
    def switch(self, vmodel_id: str, model_id: str) -> None:
        self._decide(vmodel_id, lambda vmodel, models: switch(vmodel, model_id, models))

    @rule(vmodel_id=_VMODELS, model_id=_MODELS)
    def park(self, vmodel_id: str, model_id: str) -> None:
        self._decide(vmodel_id, lambda vmodel, _: park(vmodel, model_id))

    @rule(
        vmodel_id=_VMODELS,
        model_id=_MODELS,
        role=st.sampled_from(Role),
        share=st.one_of(st.none(), st.floats(0.01, 0.99)),
    )
    def share(self, vmodel_id: str, model_id: str, role: Role, share: float | None) -> None:
        wanted = SetPortion(vmodel_id, role, None if share is None else Portion(model_id, share))
        self._decide(vmodel_id, lambda vmodel, models: set_portion(wanted, vmodel, models), model_id)

    @rule(model_id=_MODELS)
    def unregister(self, model_id: str) -> None:
        model = self.models.get(model_id)
        if model is not None and model.references == 0:
            del self.models[model_id]

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def write(self, data: Any) -> None:
        vmodel_id, vmodel, read, change = self.late.pop(data.draw(st.integers(0, len(self.late) - 1)))
        if self.vmodels.get(vmodel_id) != vmodel:
            return
        if any(self.models.get(model_id) != model for model_id, model in read.items()):
            return
        _put(self.vmodels, vmodel_id, change.vmodel)
        for model_id, model in change.models.items():
            _put(self.models, model_id, model)

    @invariant()
    def every_count_is_right(self) -> None:
        counts = {model_id: model.references for model_id, model in self.models.items()}
        assert not miscounted(count_references(self.vmodels.values()), counts)

    @invariant()
    def what_a_vmodel_needs_is_there(self) -> None:
        assert set(count_references(self.vmodels.values())) <= self.models.keys()

    @invariant()
    def no_model_is_its_own_canary_or_shadow(self) -> None:
        for vmodel in self.vmodels.values():
            assert all(
                portion is None or portion.model != vmodel.active
                for portion in (vmodel.canary, vmodel.shadow)
            )

    @invariant()
    def nothing_stays_that_was_to_go(self) -> None:
        assert all(model.references for model in self.models.values() if model.auto_delete)


def _put(records: dict[str, Any], record_id: str, record: Any) -> None:
    if record is None:
        records.pop(record_id, None)
    else:
        records[record_id] = record


TestReferences = References.TestCase
TestReferences.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(
    active=st.integers(0, 4),
    places=st.integers(0, 6),
    broken=st.integers(0, 6),
    most=st.integers(0, 3),
    data=st.data(),
)
def test_a_transition_ends_and_never_leaves_requests_without_a_copy(
    active: int, places: int, broken: int, most: int, data: Any
) -> None:
    """On a mesh whose instances load a copy, refuse it for now, or fail for good, and where copies come and go."""
    loaded, waited_ms, refusal = 0, 0, None
    for _ in range(10_000):
        view = TransitionView(
            CopyCount(active, active), CopyCount(loaded, loaded), refusal, most=most, waited_ms=waited_ms
        )
        match next_transition_step(view):
            case MakeCopies(count):
                assert 0 < count <= active - loaded
                assert not most or loaded + count <= most
                made = min(count, max(0, places - loaded))
                refusal = None if made else CopyRefused("no", everywhere=broken >= 3)
                loaded += made
                waited_ms += 1_000
            case LookAgain(after_ms):
                waited_ms += after_ms
                refusal = None
                active = data.draw(st.integers(max(0, active - 1), 4)) if broken % 2 else active
            case Switch():
                assert loaded > 0 or active == 0
                assert loaded >= min(active, most or active, places) or waited_ms >= 600_000
                return
            case Park():
                assert loaded == 0 < active
                return
    raise AssertionError("it goes on for ever")
