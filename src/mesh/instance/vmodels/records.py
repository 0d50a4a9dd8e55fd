"""Carries changes of vmodels to the registry: the vmodel and its models in one transaction."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from mesh.instance.errors import MeshError, Reason, read_only, registry_unavailable
from mesh.placement.vmodels import (
    Attributes,
    Change,
    Portion,
    Referent,
    Referents,
    Refused,
    VModel,
    VModelRefused,
)
from mesh.registry import (
    KEEP,
    InvalidRecord,
    Keep,
    Mirror,
    ModelRecord,
    Registry,
    RegistryError,
    VModelRecord,
    update_together,
)

#: All tries of one change together, seconds; those of KServe ModelMesh end with the 3.5 s of a write.
CHANGE_TIMEOUT_S = 7.0

Decide = Callable[[VModel | None, Referents], Change]
"""Gets a vmodel, and by id each model that it refers to and each that was asked for; is free of effects."""

_REFUSALS = {
    Refused.VMODEL_NOT_FOUND: (grpc.StatusCode.NOT_FOUND, Reason.VMODEL_NOT_FOUND),
    Refused.MODEL_NOT_FOUND: (grpc.StatusCode.NOT_FOUND, Reason.MODEL_NOT_FOUND),
    Refused.UNEXPECTED_TARGET: (grpc.StatusCode.FAILED_PRECONDITION, Reason.UNEXPECTED_TARGET),
    Refused.OTHER_OWNER: (grpc.StatusCode.ALREADY_EXISTS, Reason.VMODEL_EXISTS),
    Refused.ACTIVE_MODEL: (grpc.StatusCode.FAILED_PRECONDITION, Reason.INVALID_ARGUMENT),
    Refused.OTHER_ATTRIBUTES: (grpc.StatusCode.ALREADY_EXISTS, Reason.MODEL_EXISTS),
}


@dataclass(frozen=True, slots=True)
class Written:
    """A vmodel before and after a change; None where it was or is absent."""

    before: VModel | None
    after: VModel | None


class _ModelsChanged(Exception):
    """The vmodel refers to models that were not read with it."""


class VModelRecords:
    """The vmodels of the registry, for one instance.

    Args:
        read_only: whether vmodels stay as they are.
    """

    def __init__(self, registry: Registry, *, read_only: bool = False) -> None:
        self._registry = registry
        self._read_only = read_only

    def get(self, vmodel_id: str) -> VModel | None:
        """A vmodel as the mirror has it; None where there is none."""
        record = self._registry.vmodels.get(vmodel_id)
        return None if record is None else vmodel_of(record)

    async def fetch(self, vmodel_id: str) -> VModel | None:
        """A vmodel as the store has it now.

        Raises:
            MeshError: the registry is away, or the record cannot be read.
        """
        try:
            record = await self._registry.vmodels.fetch(vmodel_id)
        except RegistryError as error:
            raise _failure(vmodel_id, error) from None
        return None if record is None else vmodel_of(record)

    async def change(self, vmodel_id: str, decide: Decide, *, models: Iterable[str] = ()) -> Written:
        """Has a decision made and writes it; where a record changed meanwhile, it is made anew.

        Args:
            models: that the decision is about besides those to which the vmodel refers.

        Raises:
            MeshError: the decision refuses, or the registry cannot be read or written.
        """
        deadline = time.monotonic() + CHANGE_TIMEOUT_S
        while True:
            try:
                return await self._try_change(
                    vmodel_id, decide, models, max(0.1, deadline - time.monotonic())
                )
            except _ModelsChanged:
                if time.monotonic() >= deadline:
                    raise registry_unavailable(
                        f"vmodel {vmodel_id} kept changing for {CHANGE_TIMEOUT_S:g} s: try again", vmodel_id
                    ) from None
            except VModelRefused as refused:
                code, reason = _REFUSALS[refused.reason]
                raise MeshError(code, reason, refused.message, vmodel_id) from None
            except RegistryError as error:
                raise _failure(vmodel_id, error) from None

    async def _try_change(
        self, vmodel_id: str, decide: Decide, models: Iterable[str], timeout_s: float
    ) -> Written:
        known = self.get(vmodel_id)
        ids = sorted({*models, *(known.models if known is not None else ())})
        written = Written(None, None)

        def change(current: Sequence[Any]) -> Sequence[Any]:
            nonlocal written
            record: VModelRecord | None = current[0]
            records: dict[str, ModelRecord | None] = dict(zip(ids, current[1:], strict=True))
            before = None if record is None else vmodel_of(record)
            if before is not None and not before.models <= records.keys():
                raise _ModelsChanged
            decided = decide(before, {model_id: _referent(model) for model_id, model in records.items()})
            if self._read_only and (decided.vmodel != before or decided.models):
                raise read_only()
            written = Written(before, decided.vmodel)
            return [
                _vmodel_record(record, decided.vmodel),
                *(
                    _model_record(model, decided.models[model_id]) if model_id in decided.models else KEEP
                    for model_id, model in records.items()
                ),
            ]

        mirrors: list[tuple[Mirror[Any], str]] = [(self._registry.vmodels, vmodel_id)]
        mirrors += [(self._registry.models, model_id) for model_id in ids]
        await update_together(mirrors, change, timeout=timeout_s)
        return written


def vmodel_of(record: VModelRecord) -> VModel:
    """A vmodel as decisions see it."""
    return VModel(
        record.active,
        record.target or record.active,
        record.owner,
        record.failed,
        _portion(record.canary),
        _portion(record.shadow),
    )


def _portion(members: Mapping[str, Any]) -> Portion | None:
    """Reads a canary or shadow; one that was written by hand and makes no sense is none."""
    model_id, share = members.get("model"), members.get("share")
    if not isinstance(model_id, str) or not model_id or not isinstance(share, int | float):
        return None
    return Portion(model_id, float(share)) if 0 < share <= 1 else None


def _members(portion: Portion | None, before: Mapping[str, Any]) -> Mapping[str, Any]:
    if portion == _portion(before):
        return before
    return {} if portion is None else {"model": portion.model, "share": portion.share}


def _vmodel_record(record: VModelRecord | None, vmodel: VModel | None) -> VModelRecord | None:
    if vmodel is None:
        return None
    record = record or VModelRecord()
    return record.but(
        active=vmodel.active,
        target=vmodel.target,
        owner=vmodel.owner,
        failed=vmodel.failed,
        canary=_members(vmodel.canary, record.canary),
        shadow=_members(vmodel.shadow, record.shadow),
    )


def _referent(record: ModelRecord | None) -> Referent | None:
    if record is None:
        return None
    return Referent(
        Attributes(record.type, record.path, record.key), record.refs, record.auto_delete, record.last_used
    )


def _model_record(record: ModelRecord | None, model: Referent | None) -> ModelRecord | Keep | None:
    if model is None:
        return None
    attributes = model.attributes
    if record is None:
        record = ModelRecord(type=attributes.type, path=attributes.path, key=attributes.key)
    return record.but(refs=model.references, auto_delete=model.auto_delete, last_used=model.last_used_ms)


def _failure(vmodel_id: str, error: RegistryError) -> MeshError:
    if isinstance(error, InvalidRecord):
        return MeshError(
            grpc.StatusCode.FAILED_PRECONDITION,
            Reason.INVALID_ARGUMENT,
            f"the registry's record of vmodel {vmodel_id}, or of one of its models, cannot be read: {error};"
            " delete that key and set it anew",
            vmodel_id,
        )
    return registry_unavailable(f"the registry cannot be asked about vmodel {vmodel_id}: {error}", vmodel_id)
