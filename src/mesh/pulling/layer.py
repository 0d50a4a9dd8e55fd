"""The layer that brings a model's data here before its runtime loads it."""

import asyncio
import functools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import grpc

from mesh.puller import Puller, PullFailure, Turns
from mesh.runtimes import (
    LoadedModel,
    ModelInfo,
    ModelRuntime,
    PullProgress,
    RuntimeEvent,
    RuntimeFailure,
    RuntimeLost,
    RuntimeParameters,
    RuntimeReturned,
)
from mesh.tracing import MODEL, span

_log = logging.getLogger(__name__)
T = TypeVar("T")

_UNDECIDED = frozenset(
    {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
)
"""Answers to a load after which the model may be loaded all the same."""

DEFAULT_SIZE_MULTIPLIER = 1.25
"""Memory of a model in multiples of its size on disk, as KServe ModelMesh's adapters assume."""


class PullingRuntime(ModelRuntime):
    """A runtime whose models are pulled before they are loaded and deleted after they were unloaded.

    Loads and unloads of one model run strictly in the order in which they were asked for, those of different
    models at once. A caller that is cancelled leaves at once; the clearing up after it goes on, and what was
    asked for the same model meanwhile waits for that.
    """

    def __init__(
        self,
        inner: ModelRuntime,
        puller: Puller,
        *,
        size_multiplier: float = DEFAULT_SIZE_MULTIPLIER,
        unload_timeout_s: float = 30.0,
        predict_timeout_s: float = 2.0,
    ) -> None:
        """Wraps a runtime.

        Args:
            inner: gets absolute local paths.
            puller: of its own root.
            size_multiplier: predicts memory from the size in storage where ``inner`` cannot tell.
            unload_timeout_s: how long the runtime may take to let go of a model whose load was given up.
            predict_timeout_s: how long looking the size up in storage may take; the load waits for it.
        """
        self._inner = inner
        self._puller = puller
        self._size_multiplier = size_multiplier
        self._unload_timeout_s = unload_timeout_s
        self._predict_timeout_s = predict_timeout_s
        self._turns = Turns()
        self._loaded: set[str] = set()
        self._closing = False
        self._operations: set[asyncio.Task[Any]] = set()

    @property
    def serving_address(self) -> str:
        """Of the runtime."""
        return self._inner.serving_address

    @property
    def pulls(self) -> Mapping[str, PullProgress]:
        """How far the pulls under way are."""
        return {
            model_id: PullProgress(pull.done_bytes, pull.total_bytes)
            for model_id, pull in self._puller.progress.items()
        }

    async def changed_sources(self) -> Mapping[str, str]:
        """Looks each pulled model up in its storage again."""
        return await self._puller.changed()

    async def start(self) -> RuntimeParameters:
        """Starts the runtime, then removes the model data that an earlier run left."""
        parameters = await self._inner.start()
        try:
            removed = await self._puller.purge()
        except PullFailure as error:
            raise _as_runtime_failure(error) from error
        if removed:
            _log.info("removed the data of %d models of an earlier run", len(removed))
        return parameters

    async def load(self, model: ModelInfo) -> LoadedModel:
        """Pulls, then loads; a failed load leaves no data.

        Raises:
            RuntimeFailure: of the pull, or with the code and message of the server.
        """
        return await self._in_turn(model.model_id, lambda: self._load(model))

    async def unload(self, model_id: str) -> None:
        """Unloads, then deletes; where the runtime fails to unload, the data stays."""
        await self._in_turn(model_id, lambda: self._unload(model_id))

    async def predict_size(self, model: ModelInfo) -> int | None:
        """Asks the runtime; where it cannot tell, estimates from the size in storage."""
        size = await self._inner.predict_size(model)
        if size is not None:
            return size
        try:
            async with asyncio.timeout(self._predict_timeout_s):
                stored = await self._puller.size(model.path, model.key)
        except (PullFailure, TimeoutError) as error:
            # The load will meet the same failure and report it to those who wait for the model.
            _log.info("cannot predict the size of model %s: %s", model.model_id, error or "timed out")
            return None
        # Adapters know their server's needs once they know the size of the files.
        sized = replace(model, key=json.dumps({"disk_size_bytes": stored}))
        return await self._inner.predict_size(sized) or int(stored * self._size_multiplier) or None

    async def model_size(self, model_id: str) -> int | None:
        """Asks the runtime."""
        return await self._inner.model_size(model_id)

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        """Passes the runtime's events on; data of models that went with the server is removed."""
        lost: set[str] = set()
        async for event in self._inner.watch():
            match event:
                case RuntimeLost():
                    lost, self._loaded = lost | self._loaded, set()
                case RuntimeReturned():
                    for model_id in lost:
                        await self._in_turn(model_id, functools.partial(self._delete_lost, model_id))
                    lost = set()
            yield event

    async def close(self) -> None:
        """Stops pulls and lets go of the server; models and their data stay."""
        self._closing = True
        for operation in self._operations:
            operation.cancel()
        await asyncio.gather(*self._operations, return_exceptions=True)
        await self._puller.close()
        await self._inner.close()

    async def _in_turn(self, model_id: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        turn = self._turns.take(model_id)

        async def operation() -> T:
            await turn.come()
            return await work()

        task = asyncio.get_running_loop().create_task(operation())
        self._operations.add(task)
        task.add_done_callback(lambda _: turn.end())
        task.add_done_callback(self._operations.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            task.add_done_callback(_report)
            raise

    async def _load(self, model: ModelInfo) -> LoadedModel:
        began = time.monotonic()
        try:
            with span("mesh.pull", {MODEL: model.model_id}):
                pulled = await self._puller.pull(model.model_id, model.path, model.key)
        except PullFailure as error:
            raise _as_runtime_failure(error) from error
        pull_ms = (time.monotonic() - began) * 1_000
        try:
            loaded = await self._inner.load(replace(model, path=pulled.path, key=pulled.key))
        except asyncio.CancelledError:
            await self._undo(model.model_id, may_be_loaded=True)
            raise
        except RuntimeFailure as failure:
            await self._undo(model.model_id, may_be_loaded=failure.code in _UNDECIDED)
            raise
        self._loaded.add(model.model_id)
        return replace(loaded, pull_ms=pull_ms)

    async def _unload(self, model_id: str) -> None:
        await self._inner.unload(model_id)
        self._loaded.discard(model_id)
        await self._delete(model_id)

    async def _undo(self, model_id: str, *, may_be_loaded: bool) -> None:
        if self._closing:
            return
        try:
            async with asyncio.timeout(self._unload_timeout_s):
                # The server may still be reading the files, or finish the load later.
                await (self._unload(model_id) if may_be_loaded else self._delete(model_id))
        except (RuntimeFailure, TimeoutError) as error:
            # The caller is to hear why the load failed; the next load or unload tries again.
            _log.warning("model %s, whose load failed, keeps its data: %s", model_id, error or "timed out")

    async def _delete_lost(self, model_id: str) -> None:
        if model_id in self._loaded:
            return
        try:
            await self._delete(model_id)
        except RuntimeFailure as failure:
            # That the server is back must be told all the same; the model's next load or unload tries again.
            _log.warning("model %s, which went with its server, keeps its data: %s", model_id, failure)

    async def _delete(self, model_id: str) -> None:
        try:
            await self._puller.delete(model_id)
        except PullFailure as error:
            raise RuntimeFailure(
                grpc.StatusCode.UNKNOWN,
                f"Failed to delete model from local filesystem: {error.message}",
            ) from error


def _as_runtime_failure(error: PullFailure) -> RuntimeFailure:
    return RuntimeFailure(grpc.StatusCode[error.code], error.message)


def _report(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.warning("clearing up after a cancelled call failed: %s", task.exception())
