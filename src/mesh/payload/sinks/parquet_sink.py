"""Brings payloads into Parquet files, and these to where they belong."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock

from prometheus_client.metrics_core import Metric

from mesh.payload.payload import Payload
from mesh.payload.processor import Options
from mesh.payload.sinks.columns import batches_of
from mesh.payload.sinks.parquet import ParquetMembers
from mesh.payload.sinks.parquet_files import ParquetFiles, Whole
from mesh.payload.sinks.paths import FileNames
from mesh.payload.sinks.stores import FileStore

_log = logging.getLogger(__name__)

#: Files that wait for their upload; with more, batches wait, too.
_MOST_WAITING = 8
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 30.0
#: Of the time to close, kept to count what could not be brought away.
_CLOSING_S = 0.2


class ParquetSink:
    """A batch counts as taken once it is with the rows of a growing file.

    What is lost later is reported: a file that cannot be written on (``disk``), one that the object store does not take
    (``upload``), and one that was not away at shutdown (``shutdown``).
    """

    def __init__(self, store: FileStore, folder: Path, members: ParquetMembers, options: Options) -> None:
        """Begins without files.

        Args:
            store: of whole files.
            folder: of growing files.
            members: of the configuration.
            options: of the processor.
        """
        self._store = store
        self._members = members
        self._report = options.report
        self._files = ParquetFiles(
            folder,
            FileNames(options.instance_id or "mesh", ".parquet"),
            lambda rows: options.report.lost(rows, "disk"),
            max_bytes=members.max_bytes,
            max_seconds=members.max_seconds,
            row_group_bytes=members.row_group_bytes,
            most=members.open_files,
            compression=members.compression,
        )
        self._turn = Lock()
        self._storing: dict[asyncio.Task[None], Whole] = {}
        self._room = asyncio.Semaphore(_MOST_WAITING)
        self._clock: asyncio.Task[None] | None = None

    async def process(self, batch: Sequence[Payload]) -> None:
        """Adds rows to files, and waits while too many files wait for the object store.

        Raises:
            OSError: no file could be begun.
        """
        if self._clock is None:
            self._clock = asyncio.get_running_loop().create_task(self._end_old())
        async with self._room:
            pass
        await self._end(lambda: self._add(batch))

    async def close(self, timeout_s: float) -> None:
        """Ends all files and brings them away."""
        until = time.monotonic() + max(0.0, timeout_s - _CLOSING_S)
        if self._clock is not None:
            self._clock.cancel()
        await self._end(self._files.end_all)
        if not self._storing:
            return
        try:
            await asyncio.wait(self._storing, timeout=max(0.0, until - time.monotonic()))
        finally:
            # Also where it is cancelled: then there is less time than it was told.
            self._give_up()

    def collect(self) -> Iterable[Metric]:
        """None."""
        return ()

    def _add(self, batch: Sequence[Payload]) -> list[Whole]:
        return self._files.add(batches_of(batch, decoded=self._members.decoded, data=self._members.data))

    def _give_up(self) -> None:
        for task, whole in self._storing.items():
            task.cancel()
            self._report.lost(whole.rows, "shutdown")
            whole.part.unlink(missing_ok=True)

    async def _end(self, work: Callable[[], list[Whole]]) -> None:
        loop = asyncio.get_running_loop()

        def run() -> None:
            # A batch that was given up goes on in its thread, and its files have to be stored all the same.
            with self._turn:
                for whole in work():
                    loop.call_soon_threadsafe(self._begin_storing, whole)

        await asyncio.to_thread(run)

    def _begin_storing(self, whole: Whole) -> None:
        task = asyncio.get_running_loop().create_task(self._bring(whole))
        self._storing[task] = whole
        task.add_done_callback(lambda done: self._storing.pop(done, None))

    async def _bring(self, whole: Whole) -> None:
        async with self._room:
            until = time.monotonic() + self._members.retry_seconds
            delay = _FIRST_DELAY_S
            while True:
                try:
                    await self._store.put(whole.part, whole.name)
                except Exception as error:  # noqa: BLE001 - of whichever store
                    # Further lines are of use to the library's authors alone.
                    problem = str(error).partition("\n")[0]
                    if time.monotonic() + delay > until:
                        _log.error("%s with %d payloads is lost: %s", whole.name, whole.rows, problem)
                        self._report.lost(whole.rows, "upload")
                        whole.part.unlink(missing_ok=True)
                        return
                    _log.warning("%s is not stored yet: %s", whole.name, problem)
                else:
                    return
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - not for secrets
                delay = min(2 * delay, _LONGEST_DELAY_S)

    async def _end_old(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._members.max_seconds / 4))
            await self._end(self._files.end_old)
