"""The tasks that an instance has beside its requests, from its start to its end."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Background:
    """Runs tasks until `close`.

    Args:
        broke_off: called with a task's name and what it raised; an instance without it does only part of its work.
    """

    def __init__(self, broke_off: Callable[[str, BaseException], None]) -> None:
        self._broke_off = broke_off
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    def run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Starts a task; needs a running event loop."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def states(self) -> dict[str, str]:
        """How each task is, by its name."""
        return {task.get_name(): _state(task) for task in self._tasks}

    async def close(self) -> None:
        """Ends all tasks."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._closing or (error := task.exception()) is None:
            return
        log.critical("background task %s broke off", task.get_name(), exc_info=error)
        self._broke_off(task.get_name(), error)


def _state(task: asyncio.Task[None]) -> str:
    if not task.done():
        return "running"
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return "done" if error is None else f"broke off: {error!r}"
