"""Mends counts of references that are wrong, on the instance that leads.

No change of ours makes them wrong. A registry that KServe ModelMesh wrote may have such counts, and so may one that
people wrote to or that was restored in part; without this, a model that nobody refers to could never be unregistered.
"""

import logging
from collections import Counter

from mesh.instance.vmodels.records import vmodel_of
from mesh.placement.vmodels import VModel, count_references, miscounted
from mesh.registry import KEEP, VMODELS, Keep, ModelRecord, Registry, VModelRecord

log = logging.getLogger(__name__)


class ReferenceAudit:
    """Compares counts with the vmodels, and mends those that were wrong twice in a row."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._recorded: dict[str, int] = {}
        self._counted: Counter[str] = Counter()
        self._suspects: dict[str, int] = {}
        registry.models.subscribe(self._model_changed, replay=True)
        registry.vmodels.subscribe(self._vmodel_changed, replay=True)

    async def run(self) -> None:
        """Looks once.

        Raises:
            RegistryError: the registry is away.
        """
        if not self._registry.election.leading:
            self._suspects = {}
            return
        if self._registry.vmodels.invalid:
            # What a record that cannot be read refers to is not known, so nothing can be said of any count.
            return
        wrong = miscounted(self._counted, self._recorded)
        # A vmodel and its models are mirrored apart: for a moment one may be ahead of the other.
        certain = [model_id for model_id, count in wrong.items() if self._suspects.get(model_id) == count]
        self._suspects = wrong
        for model_id in certain:
            await self._mend(model_id)

    async def _mend(self, model_id: str) -> None:
        models = self._registry.models
        if await models.fetch(model_id) is None:
            return
        revision = models.revision(model_id)
        # Whatever changes what refers to the model changes its record, too: if that is the same after this listing,
        # the listing is true.
        counted = (await self._count()).get(model_id, 0)

        mended_from: int | None = None

        def change(record: ModelRecord | None) -> ModelRecord | Keep | None:
            nonlocal mended_from
            mended_from = None
            if record is None or models.revision(model_id) != revision or record.refs == counted:
                return KEEP
            mended_from = record.refs
            return None if counted == 0 and record.auto_delete else record.but(refs=counted)

        await models.update(model_id, change)
        if mended_from is not None:
            log.warning(
                "the model counted %d references and has %d: mended",
                mended_from,
                counted,
                extra={"model": model_id},
            )

    async def _count(self) -> dict[str, int]:
        mirror = self._registry.vmodels
        vmodels: list[VModel] = []
        page = await mirror.store.page(mirror.prefix)
        while True:
            vmodels += [vmodel_of(VMODELS.decode(entry)) for entry in page.entries]
            if not page.more:
                return count_references(vmodels)
            page = await mirror.store.page(mirror.prefix, after=page.entries[-1].key, revision=page.revision)

    def _model_changed(self, model_id: str, _: ModelRecord | None, record: ModelRecord | None) -> None:
        if record is not None and record.refs:
            self._recorded[model_id] = record.refs
        else:
            self._recorded.pop(model_id, None)

    def _vmodel_changed(self, _: str, old: VModelRecord | None, new: VModelRecord | None) -> None:
        if new is not None:
            self._counted.update(vmodel_of(new).models)
        if old is not None:
            for model_id in vmodel_of(old).models:
                self._counted[model_id] -= 1
                if not self._counted[model_id]:
                    del self._counted[model_id]
