"""Threads that run user code, so that no model can stall another or the server itself."""

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import grpc

from mesh.runtimes.interface import RuntimeFailure

Result = TypeVar("Result")

_THREAD_END_S = 0.1


@dataclass(slots=True, eq=False)
class _Job(Generic[Result]):
    work: Callable[[], Result]
    future: "asyncio.Future[Result]"
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def run(self) -> Callable[[], None]:
        """Runs the work; returns how to tell its result, in the event loop."""
        try:
            result = self.work()
        except BaseException as error:  # noqa: BLE001  whatever user code raises is its caller's
            failure = _bearable(error)
            return lambda: None if self.future.done() else self.future.set_exception(failure)
        return lambda: None if self.future.done() else self.future.set_result(result)


def _bearable(error: BaseException) -> Exception:
    """Keeps user code from ending the event loop (``SystemExit``) or confusing it (``StopIteration``)."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    bearable = RuntimeError(f"{type(error).__name__}: {error}")
    bearable.__cause__ = error
    return bearable


@dataclass(slots=True)
class _Line:
    """The jobs of one model."""

    waiting: "deque[_Job[Any]]" = field(default_factory=deque)
    running: int = 0


class FairPool:
    """A fixed number of threads, shared by models in turn.

    Each model has a queue; a free thread goes to the next model, in rotation, that has work and fewer than
    ``per_model`` jobs running. So a model that is slow or popular delays another by one job at most, and
    where it cannot take all threads not even by that. Belongs to the event loop in which it was made.
    """

    def __init__(self, threads: int, per_model: int, max_waiting: int) -> None:
        self._idle = threads
        self._per_model = per_model
        self._max_waiting = max_waiting
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._jobs: SimpleQueue[tuple[str, _Job[Any]] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._threads = threads
        for number in range(threads):
            # Daemons: a model that never answers must not keep the process from ending.
            threading.Thread(target=self._serve, name=f"infer-{number}", daemon=True).start()

    @property
    def running(self) -> int:
        """Jobs that run now."""
        return self._threads - self._idle

    async def run(self, model_id: str, work: Callable[[], Result]) -> Result:
        """Runs ``work`` in a thread.

        Given up while it waits, it is never run; later, it is waited for all the same.

        Raises:
            RuntimeFailure: RESOURCE_EXHAUSTED, too many wait for this model.
        """
        line = self._lines.setdefault(model_id, _Line())
        if len(line.waiting) >= self._max_waiting:
            raise RuntimeFailure(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._max_waiting} requests wait for model {model_id!r} already",
            )
        job: _Job[Result] = _Job(work, self._loop.create_future())
        line.waiting.append(job)
        self._dispatch()
        try:
            return await job.future
        except asyncio.CancelledError:
            try:
                line.waiting.remove(job)
            except ValueError:
                await job.ended.wait()
            else:
                self._retire(model_id)
            raise

    def close(self) -> None:
        """Ends threads that are idle, the others after their job."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _dispatch(self) -> None:
        while self._idle and (model_id := self._next()) is not None:
            line = self._lines[model_id]
            line.running += 1
            self._idle -= 1
            self._jobs.put((model_id, line.waiting.popleft()))
            self._lines.move_to_end(model_id)

    def _next(self) -> str | None:
        for model_id, line in self._lines.items():
            if line.waiting and line.running < self._per_model:
                return model_id
        return None

    def _finish(self, model_id: str, job: _Job[Any], tell: Callable[[], None]) -> None:
        job.ended.set()
        self._idle += 1
        self._lines[model_id].running -= 1
        self._retire(model_id)
        tell()
        self._dispatch()

    def _retire(self, model_id: str) -> None:
        line = self._lines.get(model_id)
        if line is not None and not line.waiting and not line.running:
            del self._lines[model_id]

    def _serve(self) -> None:
        while (item := self._jobs.get()) is not None:
            model_id, job = item
            _call(self._loop, self._finish, model_id, job, job.run())
            # A thread that waits for its next job must keep nothing of the last one alive.
            del item, job


async def run_in_own_thread(name: str, work: Callable[[], Result]) -> Result:
    """Runs ``work`` in a new thread, which goes on to its end if this is given up."""
    loop = asyncio.get_running_loop()
    job: _Job[Result] = _Job(work, loop.create_future())
    threading.Thread(target=lambda: _call(loop, job.run()), name=name, daemon=True).start()
    return await job.future


def run_in_ended_thread(work: Callable[[], Result]) -> Result:
    """Runs ``work`` in a thread and returns when that has gone, with what it kept for itself.

    A thread's cache of freed memory looks like memory in use, and is given back at its end.
    """
    results: list[Result] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  raised again below
            failures.append(_bearable(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    # Python takes a thread for ended a little before the system does.
    task = Path(f"/proc/self/task/{thread.native_id}")
    deadline = time.monotonic() + _THREAD_END_S
    while task.exists() and time.monotonic() < deadline:
        time.sleep(0.0002)
    if failures:
        raise failures[0]
    return results[0]


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        # The loop is closed: the server has ended, and nobody waits for this result.
        if not loop.is_closed():
            raise
