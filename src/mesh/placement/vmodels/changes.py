"""What a call, or the leader, makes of a vmodel: records as they are in, records as they are to be out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mesh.placement.vmodels.values import (
    Attributes,
    Change,
    Portion,
    Referent,
    Referents,
    Refused,
    VModel,
    VModelRefused,
    changed,
)

_HOUR_MS = 3_600_000
#: How long before now a model counts as used that is made for a vmodel without an active one, milliseconds: with
#: ``load_now`` and without, as KServe ModelMesh has it.
_CREATED_AGE_MS = {True: _HOUR_MS, False: 6 * _HOUR_MS}


@dataclass(frozen=True, slots=True)
class CopyCount:
    """The copies of a model on instances that are there.

    Attributes:
        loaded: that can serve.
        listed: loaded ones and those on their way.
    """

    loaded: int = 0
    listed: int = 0


@dataclass(frozen=True, slots=True)
class SetTarget:
    """What a caller of setVModel wants.

    Attributes:
        target: id of the model that the vmodel is to stand for.
        attributes: of the target, to create it where it is absent; None where it must be there.
        auto_delete: the target, if created, goes with its last reference.
        update_only: the vmodel must exist.
        force: switch at once, without waiting for copies of the target.
        load_now: the target is to be loaded even where the active model is not.
        expected: target that the vmodel must have now, unless it has the wanted one already; empty for any.
        owner: that the vmodel must have; empty for any.
        default_owner: of a vmodel that is created where ``owner`` is empty.
        copies: of the target and the active model, as far as they were counted.
    """

    vmodel_id: str
    target: str
    attributes: Attributes | None = None
    auto_delete: bool = False
    update_only: bool = False
    force: bool = False
    load_now: bool = False
    expected: str = ""
    owner: str = ""
    default_owner: str = ""
    copies: Mapping[str, CopyCount] = field(default_factory=dict)


def set_target(request: SetTarget, vmodel: VModel | None, models: Referents, now_ms: int) -> Change:
    """Creates a vmodel, or gives it another target.

    The target becomes the active model at once where nobody would notice: it is forced, the active model has no
    copy, or the target has as many loaded copies as that. Else it stays the target until it has.

    Args:
        models: the target, and every model that the vmodel refers to.

    Returns: what is to be; equal to what is where nothing is to be done.

    Raises:
        VModelRefused: by the order in which KServe ModelMesh checks.
    """
    _check(request, vmodel)
    known = models.get(request.target)
    target = _target(request, vmodel, known)
    if vmodel is None:
        if request.update_only:
            raise VModelRefused(Refused.VMODEL_NOT_FOUND, f"vmodel {request.vmodel_id} not found")
        after = VModel(request.target, request.target, request.owner or request.default_owner)
        used_ms = now_ms - _CREATED_AGE_MS[request.load_now]
    elif vmodel.target == request.target and not (request.force and vmodel.in_transition):
        # A record that got lost is made anew; the vmodel stays.
        return Change(vmodel, {} if target == known else {request.target: target})
    else:
        target_now = request.force or not _is_noticed(vmodel.active, request)
        active = request.target if target_now else vmodel.active
        after = _moved(vmodel, active, request.target)
        current = models.get(vmodel.active)
        used_ms = current.last_used_ms if current is not None else now_ms - _CREATED_AGE_MS[request.load_now]
    # Never back: a model that others use does not get older by being given to one more vmodel.
    target = replace(target, last_used_ms=max(target.last_used_ms, used_ms))
    change = changed(vmodel, after, {**models, request.target: target})
    return Change(after, {request.target: target, **change.models})


def _check(request: SetTarget, vmodel: VModel | None) -> None:
    if request.expected:
        if vmodel is None and request.expected != request.target:
            raise VModelRefused(Refused.UNEXPECTED_TARGET, f"vmodel {request.vmodel_id} not found")
        if vmodel is not None and vmodel.target not in {request.expected, request.target}:
            raise VModelRefused(
                Refused.UNEXPECTED_TARGET,
                f"Existing target model {vmodel.target} does not match expected {request.expected}",
            )
    if vmodel is not None:
        _check_owner(request.vmodel_id, vmodel, request.owner)


def _check_owner(vmodel_id: str, vmodel: VModel, owner: str) -> None:
    if owner and vmodel.owner != owner:
        raise VModelRefused(
            Refused.OTHER_OWNER, f'vmodel {vmodel_id} already exists with different owner "{vmodel.owner}"'
        )


def _target(request: SetTarget, vmodel: VModel | None, model: Referent | None) -> Referent:
    """The target's record as it is, or as it is to be created."""
    if model is None:
        if request.attributes is None:
            raise VModelRefused(Refused.MODEL_NOT_FOUND, f"Target model {request.target} not found")
        references = 1 if vmodel is not None and request.target in vmodel.models else 0
        return Referent(request.attributes, references, request.auto_delete)
    if request.attributes not in {None, model.attributes}:
        raise VModelRefused(
            Refused.OTHER_ATTRIBUTES,
            f"Target model {request.target} already exists with different attribute values",
        )
    return model


def _moved(vmodel: VModel, active: str, target: str) -> VModel:
    """The vmodel with other models. What became the active one is no canary or shadow of itself any more."""
    return replace(
        vmodel,
        active=active,
        target=target,
        failed=False,
        canary=_unless(vmodel.canary, active),
        shadow=_unless(vmodel.shadow, active),
    )


def _unless(portion: Portion | None, active: str) -> Portion | None:
    return None if portion is None or portion.model == active else portion


def _is_noticed(active: str, request: SetTarget) -> bool:
    """Whether requests would find fewer copies if the target were active."""
    if active not in request.copies:
        # It became the active model while its predecessor's copies were counted: the leader will see.
        return active != request.target
    return request.copies.get(request.target, CopyCount()).loaded < request.copies[active].listed


class Role(StrEnum):
    """What a model besides the active one does for a vmodel."""

    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class SetPortion:
    """What a caller wants of a vmodel's canary or shadow.

    Attributes:
        portion: the model and its share, as it is to be; None to end it.
        owner: that the vmodel must have; empty for any.
    """

    vmodel_id: str
    role: Role
    portion: Portion | None
    owner: str = ""


def set_portion(request: SetPortion, vmodel: VModel | None, models: Referents) -> Change:
    """Gives a vmodel a canary or a shadow, another one or another share, or takes it away.

    Args:
        models: the one it is to be, and every model that the vmodel refers to.

    Raises:
        VModelRefused: there is no such vmodel of the owner or no such model, or it is the active one.
    """
    if vmodel is None:
        raise VModelRefused(Refused.VMODEL_NOT_FOUND, f"vmodel {request.vmodel_id} not found")
    _check_owner(request.vmodel_id, vmodel, request.owner)
    role, portion = request.role, request.portion
    if portion is not None:
        if models.get(portion.model) is None:
            raise VModelRefused(
                Refused.MODEL_NOT_FOUND,
                f"{role.capitalize()} model {portion.model} not found: register it first",
            )
        if portion.model == vmodel.active:
            raise VModelRefused(
                Refused.ACTIVE_MODEL,
                f"model {portion.model} is the active model of vmodel {request.vmodel_id} already: its {role} must be"
                " another one",
            )
    after = replace(vmodel, canary=portion) if role is Role.CANARY else replace(vmodel, shadow=portion)
    return changed(vmodel, after, models)


def delete(vmodel: VModel | None, models: Referents, *, owner: str = "") -> Change:
    """Deletes a vmodel and releases its models.

    Args:
        models: every model that it refers to.
        owner: that it must have to be deleted; empty for any.

    Returns: what is to be; equal to what is where there is no such vmodel of the owner.
    """
    if vmodel is None or (owner and vmodel.owner != owner):
        return Change(vmodel)
    return changed(vmodel, None, models)


def switch(vmodel: VModel | None, target: str, models: Referents) -> Change:
    """Ends a transition: the target becomes the active model, and the one before it is released.

    Args:
        target: that was made ready; where the vmodel has another one by now, it stays as it is.
        models: every model that the vmodel refers to.
    """
    if vmodel is None or vmodel.target != target or not vmodel.in_transition:
        return Change(vmodel)
    return changed(vmodel, _moved(vmodel, target, target), models)


def park(vmodel: VModel | None, target: str) -> Change:
    """Notes that the target could not be loaded; the active model goes on.

    Args:
        target: that failed; where the vmodel has another one by now, it stays as it is.
    """
    if vmodel is None or vmodel.target != target or not vmodel.in_transition:
        return Change(vmodel)
    return Change(replace(vmodel, failed=True))
