"""Work to be done for keys, each by one worker at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

_Key = TypeVar("_Key", bound=Hashable)
Work = Callable[[_Key], Awaitable[float | None]]
#: Pauses after failures, seconds; doubled each time.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 120.0


class Again(Exception):
    """Raised by work that is to be done once more.

    Attributes:
        after_s: when; None for a pause that grows with each attempt.
    """

    def __init__(self, why: str = "", after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


class WorkQueue(Generic[_Key]):
    """Keys whose objects may have changed.

    A key that is added again before its turn is worked on once; one that is added during its turn gets another.

    Args:
        name: of the work, for the log.
        workers: at the same time.
    """

    def __init__(self, name: str, *, workers: int = 8) -> None:
        self._name = name
        self._workers = workers
        self._ready: asyncio.Queue[_Key] = asyncio.Queue()
        self._waiting: set[_Key] = set()
        self._running: set[_Key] = set()
        self._later: dict[_Key, asyncio.TimerHandle] = {}
        self._failures: dict[_Key, int] = {}
        self.done = 0
        self.failed = 0

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting)

    def add(self, key: _Key) -> None:
        """Has a key worked on as soon as a worker is free."""
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._running:
            self._ready.put_nowait(key)

    def add_after(self, key: _Key, delay_s: float) -> None:
        """Has a key worked on later; the earliest of several times counts."""
        loop = asyncio.get_running_loop()
        when = loop.time() + delay_s
        if (known := self._later.get(key)) is not None:
            if known.when() <= when:
                return
            known.cancel()
        self._later[key] = loop.call_at(when, self._due, key)

    async def run(self, work: Work[_Key]) -> None:
        """Works until cancelled.

        Args:
            work: done for each key; returns when to look again, in seconds, or None to wait for a change.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._serve(work))

    def _due(self, key: _Key) -> None:
        del self._later[key]
        self.add(key)

    async def _serve(self, work: Work[_Key]) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._running.add(key)
            try:
                await self._turn(key, work)
            finally:
                self._running.discard(key)
                if key in self._waiting:
                    self._ready.put_nowait(key)

    async def _turn(self, key: _Key, work: Work[_Key]) -> None:
        try:
            after_s = await work(key)
        except Again as wish:
            self._retry(key, str(wish), wish.after_s)
        except Exception as problem:  # noqa: BLE001
            # One object must not keep the others from being worked on, whatever is wrong with it.
            _log.exception("%s %s failed", self._name, key)
            self._retry(key, str(problem), None)
        else:
            self.done += 1
            self._failures.pop(key, None)
            if after_s is not None:
                self.add_after(key, after_s)

    def _retry(self, key: _Key, why: str, after_s: float | None) -> None:
        self.failed += 1
        times = self._failures.get(key, 0)
        self._failures[key] = times + 1
        if after_s is None:
            after_s = min(_FIRST_PAUSE_S * 2 ** min(times, 16), _LONGEST_PAUSE_S)
        if why:
            _log.warning("%s %s: %s; again in %.1f s", self._name, key, why, after_s)
        self.add_after(key, after_s)
