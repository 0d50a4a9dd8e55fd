"""Keeps as many copies of each model as its policy asks for; done by the instance that leads."""

import asyncio
from collections.abc import Callable

from mesh.instance.copies.facts import CopyFacts
from mesh.instance.copies.growing import Growing
from mesh.placement import CopyPolicy
from mesh.placement.copies import for_minimum
from mesh.registry import InstanceRecord, ModelRecord, Registry

#: All such models are looked at this often, milliseconds, in case a change was missed; those that changed at once.
FULL_LOOK_MS = 10_000
#: Models looked at before requests get their turn.
AT_A_TIME = 100


class MinimumCopies:
    """The models that are to have copies at all times.

    Args:
        now_ms: epoch milliseconds.

    Attributes:
        missing: copies that are to be there and are not, as last seen; 0 while another instance leads.
    """

    def __init__(
        self, registry: Registry, facts: CopyFacts, growing: Growing, now_ms: Callable[[], int]
    ) -> None:
        self._registry = registry
        self._facts = facts
        self._growing = growing
        self._now_ms = now_ms
        self._kept: set[str] = set()
        self._changed: set[str] = set()
        self._full_look_ms = 0
        self._short: dict[str, int] = {}
        self.missing = 0

    def start(self) -> None:
        """Follows the records."""
        self._registry.models.subscribe(self._model_changed, replay=True)
        self._registry.instances.subscribe(self._instance_changed)

    async def look(self) -> None:
        """Has copies added where there are too few; nothing while another instance leads."""
        now_ms = self._now_ms()
        models, self._changed = self._changed, set()
        if not self._registry.election.leading:
            # Whoever begins to lead looks at all.
            self._full_look_ms = 0
            self._short.clear()
            self.missing = 0
            return
        if now_ms >= self._full_look_ms:
            models |= self._kept
            self._full_look_ms = now_ms + FULL_LOOK_MS
        for number, model_id in enumerate(models, 1):
            self._look_at(model_id, now_ms)
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)

    def _look_at(self, model_id: str, now_ms: int) -> None:
        record = self._registry.models.get(model_id)
        if record is None or model_id not in self._kept:
            self._note(model_id, 0)
            return
        now = self._facts.now(model_id, record)
        self._note(model_id, now.policy.kept_copies - now.all)
        if not self._growing.may_grow(model_id):
            # What was refused has to wait for other instances, or for its time: the next look at all will do.
            if not self._growing.is_refused(model_id):
                self._changed.add(model_id)
            return
        growth = for_minimum(model_id, now)
        if growth is not None and not self._growing.is_full:
            self._growing.grow(growth, last_used_ms=max(now_ms, record.last_used))

    def _note(self, model_id: str, missing: int) -> None:
        self.missing += max(0, missing) - self._short.pop(model_id, 0)
        if missing > 0:
            self._short[model_id] = missing

    def _model_changed(self, model_id: str, _: ModelRecord | None, record: ModelRecord | None) -> None:
        if record is not None and record.policy and CopyPolicy.from_members(record.policy).kept_copies:
            self._kept.add(model_id)
            self._changed.add(model_id)
        elif model_id in self._kept:
            self._kept.discard(model_id)
            self._changed.add(model_id)

    def _instance_changed(self, _: str, old: InstanceRecord | None, new: InstanceRecord | None) -> None:
        if _can_load(old) != _can_load(new):
            self._full_look_ms = 0
            self._growing.forget_refusals()


def _can_load(record: InstanceRecord | None) -> bool:
    return record is not None and record.capacity > 0 and not record.shutting_down
