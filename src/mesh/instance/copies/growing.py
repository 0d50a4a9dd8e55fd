"""Carries out that models get further copies."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from mesh.instance.copies.reports import CopyReports
from mesh.instance.errors import MeshError
from mesh.instance.placer import Placer
from mesh.placement import InstanceFilter
from mesh.placement.copies import Growth, GrowthKind

log = logging.getLogger(__name__)

#: Models that get further copies at a time, and as many more for load, which is not to wait for anything else.
AT_ONCE = 10
#: With so many under way or waiting, what can wait is not begun.
AT_MOST = 1_000
#: What one copy is asked is looked at anew so long after there are more, milliseconds.
SETTLE_MS = 2_000
#: Where no copy could be added, it is tried again after the first, and after each further time twice as long, up to the
#: second, milliseconds.
TRY_AGAIN_MS = (10_000, 300_000)


class Growing:
    """The models that get further copies on behalf of this instance.

    Args:
        settled: called with a model's id when its copies have been added, or could not be.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self, placer: Placer, reports: CopyReports, settled: Callable[[str], None], now_ms: Callable[[], int]
    ) -> None:
        self._placer = placer
        self._reports = reports
        self._settled = settled
        self._now_ms = now_ms
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, int] = {}
        self._pauses: dict[str, int] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._slots_for_load = asyncio.Semaphore(AT_ONCE)

    @property
    def is_full(self) -> bool:
        """Whether what can wait should."""
        return len(self._tasks) >= AT_MOST

    def may_grow(self, model_id: str) -> bool:
        """Whether nothing is under way for the model, nor was tried a short while ago."""
        return model_id not in self._tasks and self._now_ms() >= self._not_before.get(model_id, 0)

    def is_refused(self, model_id: str) -> bool:
        """Whether no copy could be added the last time, and instances have not changed since."""
        return model_id in self._pauses

    def grow(self, growth: Growth, *, last_used_ms: int, conditions: Sequence[InstanceFilter] = ()) -> None:
        """Begins to add copies; `may_grow` must have said yes.

        Args:
            last_used_ms: epoch milliseconds that the new copies count as last used at.
            conditions: on the instances that they may go to.
        """
        self._reports.growing(growth)
        task = asyncio.get_running_loop().create_task(self._grow(growth, last_used_ms, conditions))
        self._tasks[growth.model_id] = task
        task.add_done_callback(lambda done: self._ended(growth.model_id, done))

    def forget_refusals(self) -> None:
        """Instances have changed: what found no place may find one now."""
        for model_id in self._pauses:
            self._not_before.pop(model_id, None)
        self._pauses.clear()

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _grow(self, growth: Growth, last_used_ms: int, conditions: Sequence[InstanceFilter]) -> None:
        model_id = growth.model_id
        for_load = growth.kind in {GrowthKind.RATE, GrowthKind.CONCURRENCY}
        try:
            async with self._slots_for_load if for_load else self._slots:
                added = await self._placer.raise_copies(
                    model_id,
                    growth.copies,
                    last_used_ms=last_used_ms,
                    why=growth.message,
                    conditions=conditions,
                )
        except MeshError as error:
            self._reports.not_grown(growth, error)
            first_ms, most_ms = TRY_AGAIN_MS
            pause_ms = self._pauses[model_id] = min(most_ms, 2 * self._pauses.get(model_id, first_ms // 2))
        else:
            self._reports.grown(growth, added)
            self._pauses.pop(model_id, None)
            pause_ms = SETTLE_MS
        self._not_before[model_id] = self._now_ms() + pause_ms
        if len(self._not_before) > 10_000:
            now_ms = self._now_ms()
            self._not_before = {one: ms for one, ms in self._not_before.items() if ms > now_ms}
            self._pauses = {one: ms for one, ms in self._pauses.items() if one in self._not_before}

    def _ended(self, model_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[model_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("adding copies broke off", exc_info=error, extra={"model": model_id})
        self._settled(model_id)
