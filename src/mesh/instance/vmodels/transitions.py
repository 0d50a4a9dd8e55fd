"""Brings vmodels to their targets, on the instance that leads."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from mesh.instance.catalog import Catalog
from mesh.instance.errors import MeshError, Reason
from mesh.instance.placer import Placer
from mesh.instance.vmodels.records import VModelRecords, vmodel_of
from mesh.placement import Decision, DecisionKind, DecisionRing
from mesh.placement.vmodels import (
    CopyCount,
    CopyRefused,
    LookAgain,
    MakeCopies,
    Park,
    Switch,
    TransitionView,
    VModel,
    next_transition_step,
    park,
    switch,
)
from mesh.registry import ModelRecord, Registry, VModelRecord

log = logging.getLogger(__name__)


class Transitions:
    """Works on every vmodel whose target is not its active model, each by a task of its own, while this instance leads.

    What has been done is in the registry alone, so that another leader goes on where this one stopped.

    Args:
        ring: takes what was decided, under the target's id.
        patience_ms: see `next_transition_step`.
        now_ms: epoch milliseconds; never goes back.
    """

    def __init__(
        self,
        registry: Registry,
        records: VModelRecords,
        catalog: Catalog,
        placer: Placer,
        ring: DecisionRing,
        *,
        patience_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._records = records
        self._catalog = catalog
        self._placer = placer
        self._ring = ring
        self._patience_ms = patience_ms
        self._now_ms = now_ms
        self._under_way: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._parked: dict[str, set[str]] = {}

    def start(self) -> None:
        """Follows the election, the vmodels, and the targets of transitions that failed."""
        self._registry.election.subscribe(self._led)
        self._registry.vmodels.subscribe(self._vmodel_changed, replay=True)
        self._registry.models.subscribe(self._model_changed)

    async def review(self) -> None:
        """Takes up every transition that nobody works on, those that failed before among them."""
        if self._registry.election.leading:
            self._take_up_all()

    async def close(self) -> None:
        """Ends what is under way; the next leader goes on with it."""
        tasks = self._leave(list(self._under_way))
        await asyncio.gather(*tasks, return_exceptions=True)

    def _led(self, leading: bool) -> None:
        if not leading:
            self._leave(list(self._under_way))
            self._parked.clear()
            return
        self._take_up_all()

    def _take_up_all(self) -> None:
        for vmodel_id, record in self._registry.vmodels.items():
            # Most are not in transition, and there may be a hundred thousand.
            if record.target != record.active:
                self._take_up(vmodel_id, vmodel_of(record))

    def _vmodel_changed(self, vmodel_id: str, _: VModelRecord | None, record: VModelRecord | None) -> None:
        vmodel = None if record is None else vmodel_of(record)
        target, _task = self._under_way.get(vmodel_id, ("", None))
        if target and (vmodel is None or vmodel.target != target):
            self._leave([vmodel_id])
        if vmodel is None or not vmodel.in_transition:
            for target, waiting in list(self._parked.items()):
                waiting.discard(vmodel_id)
                if not waiting:
                    del self._parked[target]
        elif not vmodel.failed and self._registry.election.leading:
            self._take_up(vmodel_id, vmodel)

    def _model_changed(self, model_id: str, old: ModelRecord | None, new: ModelRecord | None) -> None:
        if model_id not in self._parked or new is None:
            return
        failures = old.failures.keys() if old is not None else set()
        copies = old.copies.keys() if old is not None else set()
        if old is None or failures - new.failures.keys() or new.copies.keys() - copies:
            # It is registered anew, a failure has expired, or somebody has it loaded.
            for vmodel_id in self._parked.pop(model_id):
                if (vmodel := self._records.get(vmodel_id)) is not None:
                    self._take_up(vmodel_id, vmodel)

    def _take_up(self, vmodel_id: str, vmodel: VModel) -> None:
        if not vmodel.in_transition or vmodel_id in self._under_way:
            return
        task = asyncio.get_running_loop().create_task(self._bring(vmodel_id, vmodel.target))
        self._under_way[vmodel_id] = vmodel.target, task
        task.add_done_callback(lambda task: self._ended(vmodel_id, task))

    def _leave(self, vmodel_ids: Iterable[str]) -> list[asyncio.Task[None]]:
        tasks = [self._under_way.pop(vmodel_id)[1] for vmodel_id in vmodel_ids]
        for task in tasks:
            task.cancel()
        return tasks

    def _ended(self, vmodel_id: str, task: asyncio.Task[None]) -> None:
        if self._under_way.get(vmodel_id, ("", None))[1] is task:
            del self._under_way[vmodel_id]
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, MeshError):
            log.warning("the transition waits for the next review: %s", error, extra={"vmodel": vmodel_id})
        else:
            log.error("the transition broke off", exc_info=error, extra={"vmodel": vmodel_id})

    async def _bring(self, vmodel_id: str, target: str) -> None:
        began_ms = self._now_ms()
        refusal: CopyRefused | None = None
        while (vmodel := self._records.get(vmodel_id)) is not None and vmodel.in_transition:
            copies = await self._catalog.count_copies(target)
            view = TransitionView(
                await self._catalog.count_copies(vmodel.active),
                copies,
                refusal,
                most=self._most_copies(target),
                waited_ms=self._now_ms() - began_ms,
            )
            match next_transition_step(view, self._patience_ms):
                case MakeCopies(count):
                    refusal = await self._make_copies(vmodel_id, target, copies, count)
                case LookAgain(after_ms):
                    await asyncio.sleep(after_ms / 1_000)
                    refusal = None
                case Switch(why):
                    await self._switch(vmodel_id, vmodel.active, target, why)
                    return
                case Park(why):
                    await self._park(vmodel_id, target, why)
                    return

    def _most_copies(self, model_id: str) -> int:
        record = self._registry.models.get(model_id)
        return 0 if record is None else record.max_copies

    async def _make_copies(
        self, vmodel_id: str, target: str, copies: CopyCount, more: int
    ) -> CopyRefused | None:
        """Has more copies loaded; returns why there are none, if so."""
        try:
            await self._placer.raise_copies(
                target,
                copies.listed + more,
                last_used_ms=self._now_ms(),
                why=f"vmodel {vmodel_id} is to move to it",
            )
        except MeshError as error:
            nowhere = error.reason is Reason.TOO_LARGE or not self._placer.has_place(target)
            return CopyRefused(error.message, everywhere=nowhere)
        if (await self._catalog.count_copies(target)).loaded <= copies.loaded:
            return CopyRefused(f"copies of {target} were loaded and did not stay")
        return None

    async def _switch(self, vmodel_id: str, active: str, target: str, why: str) -> None:
        written = await self._records.change(vmodel_id, lambda now, models: switch(now, target, models))
        if written.before != written.after:
            self._note(
                DecisionKind.SWITCH, target, f"vmodel {vmodel_id} moves here from {active}: {why}", active
            )
            log.info(
                "vmodel switched: %s", why, extra={"vmodel": vmodel_id, "model": target, "before": active}
            )

    async def _park(self, vmodel_id: str, target: str, why: str) -> None:
        self._parked.setdefault(target, set()).add(vmodel_id)
        written = await self._records.change(vmodel_id, lambda now, _: park(now, target))
        if written.before != written.after:
            self._note(DecisionKind.FAILURE, target, f"vmodel {vmodel_id} does not move here: {why}")
            log.error("vmodel not switched: %s", why, extra={"vmodel": vmodel_id, "model": target})

    def _note(self, kind: DecisionKind, model_id: str, summary: str, *related: Any) -> None:
        self._ring.add(Decision(kind, self._now_ms(), model_id, summary, related_models=related))
