"""What the leader does for the mesh: dead instances are forgotten, and free memory gets models."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from mesh.instance.candidates import Candidates
from mesh.instance.errors import MeshError
from mesh.instance.placer import Placer
from mesh.instance.routes import Routes
from mesh.placement import CopyPolicy, Decision, DecisionKind, DecisionRing
from mesh.placement.upkeep import Absences, Preload, Preloading
from mesh.registry import (
    KEEP,
    ForgetInstances,
    InstanceRecord,
    Keep,
    ModelRecord,
    Registry,
    apply_together,
)

log = logging.getLogger(__name__)

# Named, because annotations of a function that is made for each write are worked out each time.
_Current = ModelRecord | None
_Wanted = ModelRecord | Keep | None

#: Records looked at before requests get their turn.
AT_A_TIME = 2_000
#: Records written, and models loaded ahead of demand, at a time.
AT_ONCE = 16
#: A last use so far in the future, milliseconds, cannot be one: KServe ModelMesh left such records behind. Their models
#: count as used three hours ago instead, as there.
_IMPOSSIBLE_MS = 24 * 3_600_000
_INSTEAD_MS = 3 * 3_600_000


class Reaper:
    """Runs on the leader; every instance can become it, and so knows since when others are away.

    Args:
        ring: takes the decisions.
        prunes: whether records may be changed; not while a registry is moved.
        preloads: whether models are loaded ahead of demand.
        dead_after_ms: instances that are away for so long are forgotten.
        idle_ttl_ms: a model that was not used for so long has been unloaded for that, where its policy has no time of
            its own, and is not loaded ahead of demand; 0 for never.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        registry: Registry,
        candidates: Candidates,
        placer: Placer,
        routes: Routes,
        ring: DecisionRing,
        *,
        prunes: bool,
        preloads: bool,
        dead_after_ms: int,
        idle_ttl_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._candidates = candidates
        self._placer = placer
        self._routes = routes
        self._ring = ring
        self._prunes = prunes
        self._preloads = preloads
        self._dead_after_ms = dead_after_ms
        self._idle_ttl_ms = idle_ttl_ms
        self._now_ms = now_ms
        self._absences = Absences()

    def start(self) -> None:
        """Follows who comes and goes."""
        self._registry.instances.subscribe(self._changed)

    def _changed(self, instance_id: str, _: InstanceRecord | None, record: InstanceRecord | None) -> None:
        if record is None:
            self._absences.left(instance_id, self._now_ms())
        else:
            self._absences.came(instance_id)

    async def run(self) -> None:
        """Looks through all records once, and does what is to be done.

        Raises:
            RegistryError: the registry is away.
        """
        registry = self._registry
        self._candidates.refresh()
        ranked, now_ms = self._candidates.ranked, self._now_ms()
        partitions = ranked.partitions() if self._preloads else []
        preloading = Preloading(partitions, ranked.constraints.rule_name, ranked.default_model_units, now_ms)
        changes: list[tuple[str, tuple[str, ...]]] = []
        named: set[str] = set()
        ids = list(registry.models)
        for start in range(0, len(ids), AT_A_TIME):
            for model_id in ids[start : start + AT_A_TIME]:
                record = registry.models.get(model_id)
                if record is None:
                    continue
                self._offer(model_id, record, preloading, now_ms)
                if dead := self._dead(record, named, now_ms):
                    changes.append((model_id, dead))
            await asyncio.sleep(0)
        self._absences.forget(named)
        if self._prunes:
            await _some_at_once([self._prune(model_id, dead) for model_id, dead in changes])
        await _some_at_once([self._load(preload) for preload in preloading.chosen()])

    def _offer(self, model_id: str, record: ModelRecord, preloading: Preloading, now_ms: int) -> None:
        if preloading.wanted and not any(map(self._routes.live, record.copies)):
            used_ms = record.last_used
            if used_ms > now_ms + _IMPOSSIBLE_MS:
                used_ms = now_ms - _INSTEAD_MS
            idle_ttl_ms = CopyPolicy.from_members(record.policy).idle_ttl_ms or self._idle_ttl_ms
            if 0 < idle_ttl_ms <= now_ms - used_ms:
                return
            preloading.offer(model_id, record.type, used_ms, len(record.failures))

    def _dead(self, record: ModelRecord, named: set[str], now_ms: int) -> tuple[str, ...]:
        if not record.copies and not record.failures:
            return ()
        named.update(record.copies, record.failures)
        present = self._registry.instances
        return tuple(
            self._absences.dead(record.copies, record.failures, present, now_ms, self._dead_after_ms)
        )

    async def _prune(self, model_id: str, dead: tuple[str, ...]) -> None:
        registry = self._registry
        change = ForgetInstances(
            dead, lambda instance_id: instance_id in registry.instances, self._now_ms() - self._dead_after_ms
        )

        def change_record(record: _Current) -> _Wanted:
            changed = apply_together(record, [change])
            return KEEP if changed == record else changed

        if registry.election.leading:
            await registry.models.update(model_id, change_record)
            log.info("forgot instances that are gone: %s", ", ".join(dead), extra={"model": model_id})

    async def _load(self, preload: Preload) -> None:
        if not self._registry.election.leading:
            return
        model_id, now_ms = preload.model_id, self._now_ms()
        memory = "instead of what was used longer ago" if preload.evicts else "into memory that nobody uses"
        age_s = max(0, now_ms - preload.last_used_ms) // 1_000
        summary = f"loaded ahead of demand, {memory}; last used {age_s} s before"
        self._ring.add(Decision(DecisionKind.PRELOAD, now_ms, model_id, summary))
        try:
            await self._placer.ensure_copy(model_id, last_used_ms=max(1, preload.last_used_ms), urgent=False)
        except MeshError as error:
            log.info("not loaded ahead of demand: %s", error, extra={"model": model_id})


async def _some_at_once(work: list[Coroutine[Any, Any, None]]) -> None:
    """Does pieces of work, some at a time.

    Raises:
        BaseException: one of them failed; the others were done all the same.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(piece: Coroutine[Any, Any, None]) -> None:
        async with slots:
            await piece

    outcomes = await asyncio.gather(*(one(piece) for piece in work), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
