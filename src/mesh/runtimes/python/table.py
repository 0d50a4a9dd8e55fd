"""The models of a runtime, and the one place where they come and go."""

import asyncio
import functools
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from mesh.runtimes.interface import ModelInfo, RuntimeFailure
from mesh.runtimes.python.memory import FreeMemory, Meter
from mesh.runtimes.python.model import AnyRuntime, ModelMetadata
from mesh.runtimes.python.sizing import SizeHistory, file_bytes, model_files, versions
from mesh.runtimes.python.workers import run_in_ended_thread, run_in_own_thread

_log = logging.getLogger(__name__)

_LOADED_ONCE_BYTES = 64 << 20
"""A smaller model during whose load Python modules were imported is loaded again to be measured without them."""

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Entry:
    """A loaded model."""

    info: ModelInfo
    model: Any
    metadata: ModelMetadata
    size_bytes: int
    versions: frozenset[tuple[str, int, int]]
    in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class _Loaded:
    """What a load has brought."""

    model: Any
    metadata: ModelMetadata
    size_bytes: int
    file_bytes: int
    versions: frozenset[tuple[str, int, int]]


@dataclass(slots=True, eq=False)
class _Turn:
    """Whose turn it is at one model."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class ModelTable:
    """Loads, keeps and unloads models.

    For one model these happen one after another. Each runs to its end even if its caller gives up, since no
    thread can be stopped; what was loaded for nobody is unloaded at once, and a later call for the same
    model waits for it.
    """

    def __init__(self, runtime: AnyRuntime, max_loads: int, busy: Callable[[], bool]) -> None:
        self._runtime = runtime
        self._entries: dict[str, Entry] = {}
        self._turns: dict[str, _Turn] = {}
        self._slots = asyncio.Semaphore(1 if runtime.measured else max_loads)
        self._busy = busy
        self._requests = 0
        self._history = SizeHistory()
        self._free = FreeMemory()
        self._tasks: set[asyncio.Task[Any]] = set()

    @contextmanager
    def use(self, model_id: str) -> Iterator[Entry]:
        """Keeps a model from being unloaded while it answers a request.

        Raises:
            RuntimeFailure: NOT_FOUND, it is not loaded.
        """
        entry = self._entries.get(model_id)
        if entry is None:
            raise RuntimeFailure(grpc.StatusCode.NOT_FOUND, f"Model {model_id!r} is not loaded")
        entry.in_flight += 1
        self._requests += 1
        try:
            yield entry
        finally:
            entry.in_flight -= 1
            if not entry.in_flight:
                entry.idle.set()

    def names(self) -> list[str]:
        """Returns: ids of the models that are loaded."""
        return sorted(self._entries)

    async def load(self, info: ModelInfo) -> Entry:
        """Loads a model; one that is loaded already from the same, unchanged files is left as it is.

        Raises:
            RuntimeFailure: what the user's code raised, with a fitting code.
        """
        given_up = asyncio.Event()
        try:
            return await self._in_turn(info.model_id, lambda: self._load(info, given_up))
        except asyncio.CancelledError:
            given_up.set()
            raise

    async def unload(self, model_id: str) -> None:
        """Unloads a model once the requests that it is answering have ended; new ones find it gone at once.

        Raises:
            RuntimeFailure: the user's code failed; the model is forgotten nevertheless.
        """
        await self._in_turn(model_id, lambda: self._unload(model_id))

    async def unload_all(self) -> None:
        """Unloads every model, also those that are being loaded."""
        await asyncio.gather(*(self.unload(model_id) for model_id in {*self._entries, *self._turns}))

    async def predict(self, info: ModelInfo) -> int | None:
        """Estimates bytes of memory of a model that is not loaded."""
        told = await run_in_own_thread("predict", functools.partial(self._runtime.predict_size, info))
        if told is not None:
            return told
        size = await run_in_own_thread("file-size", lambda: file_bytes(model_files(info.path)))
        return self._history.predict(info.model_type, size)

    async def _load(self, info: ModelInfo, given_up: asyncio.Event) -> Entry:
        known = self._entries.get(info.model_id)
        if known is not None and known.info == info:
            found = await run_in_own_thread("versions", lambda: versions(model_files(info.path)))
            if found == known.versions:
                return known
        await self._unload(info.model_id)
        async with self._slots:
            if given_up.is_set():
                raise asyncio.CancelledError
            entry = await self._make(info)
        if given_up.is_set():
            await self._dispose(entry)
            raise asyncio.CancelledError
        self._entries[info.model_id] = entry
        _log.info("loaded %s: %d bytes", info.model_id, entry.size_bytes)
        return entry

    async def _make(self, info: ModelInfo) -> Entry:
        requests, busy = self._requests, self._busy()
        name = f"load-{info.model_id}"
        loaded = await run_in_own_thread(name, functools.partial(_load, self._runtime, info, self._free))
        size = loaded.size_bytes
        if self._runtime.measured and (busy or self._requests != requests):
            size = max(size, self._history.predict(info.model_type, loaded.file_bytes) or 0)
        else:
            self._history.learn(info.model_type, loaded.file_bytes, size)
        return Entry(info, loaded.model, loaded.metadata, size, loaded.versions)

    async def _unload(self, model_id: str) -> None:
        entry = self._entries.pop(model_id, None)
        if entry is None:
            return
        while entry.in_flight:
            entry.idle.clear()
            await entry.idle.wait()
        await self._dispose(entry)
        _log.info("unloaded %s", model_id)

    async def _dispose(self, entry: Entry) -> None:
        model, entry.model = entry.model, None
        work = functools.partial(_unload, self._runtime, [model], self._free)
        del model
        await run_in_own_thread(f"unload-{entry.info.model_id}", work)

    async def _in_turn(self, model_id: str, work: Callable[[], Awaitable[Result]]) -> Result:
        turn = self._turns.setdefault(model_id, _Turn())
        turn.users += 1

        async def wait_and_work() -> Result:
            try:
                async with turn.lock:
                    return await work()
            finally:
                turn.users -= 1
                if not turn.users:
                    del self._turns[model_id]

        return await asyncio.shield(self._keep(wait_and_work()))

    def _keep(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _load(runtime: AnyRuntime, info: ModelInfo, free: FreeMemory) -> _Loaded:
    files = model_files(info.path)
    if not runtime.measured:
        before = versions(files)
        model = runtime.load(info)
        return _Loaded(model, runtime.metadata(model), max(1, runtime.size(model)), file_bytes(files), before)
    runtime.prepare(info)
    modules = len(sys.modules)
    loaded = _measure(runtime, info, files)
    if len(sys.modules) > modules and loaded.size_bytes < _LOADED_ONCE_BYTES:
        runtime.unload(loaded.model)
        del loaded
        loaded = _measure(runtime, info, files)
    free.give_back()
    return loaded


def _measure(runtime: AnyRuntime, info: ModelInfo, files: list[Path]) -> _Loaded:
    def load() -> tuple[Any, ModelMetadata]:
        model = runtime.load(info)
        return model, runtime.metadata(model)

    before = versions(files)
    meter = Meter()
    model, metadata = run_in_ended_thread(load)
    return _Loaded(model, metadata, meter.read(files), file_bytes(files), before)


def _unload(runtime: AnyRuntime, model: list[Any], free: FreeMemory) -> None:
    try:
        runtime.unload(model[0])
    finally:
        # The last reference, so that what is given back includes it.
        model.clear()
        free.give_back()
