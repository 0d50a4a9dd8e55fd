"""Has models that were evicted here loaded where there is room."""

import asyncio
import logging
from collections.abc import Callable

from mesh.instance.candidates import Candidates
from mesh.instance.errors import MeshError
from mesh.instance.placer import Placer
from mesh.instance.routes import Routes
from mesh.placement import Decision, DecisionKind, DecisionRing, ReportEvicted
from mesh.placement.upkeep import deserves_second_home
from mesh.registry import Registry

log = logging.getLogger(__name__)

#: Models brought elsewhere at a time, and under way or waiting at most: with more, the mesh has no time for courtesies.
AT_ONCE = 4
AT_MOST = 100


class SecondHomes:
    """Follows the evictions of one instance.

    Args:
        ring: takes the decisions.
        loading_timeout_ms: of the model server.
        is_leaving: whether copies here are being handed over anyway.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        routes: Routes,
        candidates: Candidates,
        placer: Placer,
        ring: DecisionRing,
        *,
        loading_timeout_ms: int,
        is_leaving: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._routes = routes
        self._candidates = candidates
        self._placer = placer
        self._ring = ring
        self._loading_timeout_ms = loading_timeout_ms
        self._is_leaving = is_leaving
        self._now_ms = now_ms
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._moving: set[asyncio.Task[None]] = set()

    def evicted(self, report: ReportEvicted) -> None:
        """A copy was evicted here."""
        record = self._registry.models.get(report.model_id)
        if record is None or self._is_leaving() or len(self._moving) >= AT_MOST:
            return
        if any(map(self._routes.stays, record.copies.keys() - {self._instance_id})):
            # It has another home.
            return
        self._candidates.refresh()
        stats = self._candidates.ranked.stats(record.type)
        if not deserves_second_home(report.loaded_for_ms, self._loading_timeout_ms, stats):
            return
        task = asyncio.get_running_loop().create_task(self._move(report, stats.free_share))
        self._moving.add(task)
        task.add_done_callback(self._moving.discard)

    async def _move(self, report: ReportEvicted, free_share: float) -> None:
        model_id, used_ms = report.model_id, self._now_ms() - report.age_ms
        async with self._slots:
            try:
                await self._placer.copy_elsewhere(model_id, last_used_ms=max(1, used_ms))
            except MeshError as error:
                log.info("evicted, and no other home found: %s", error, extra={"model": model_id})
                return
        summary = f"evicted here, and loaded elsewhere since {free_share:.0%} of all memory was free"
        self._ring.add(Decision(DecisionKind.MOVE, self._now_ms(), model_id, summary))

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = tuple(self._moving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
