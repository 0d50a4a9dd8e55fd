"""What the cache wants of the model server: each call, and how it went as the event that the cache waits for.

No failure of a call goes further, not even a driver's own mistake: those who wait for a model are to hear of it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import grpc

from mesh.instance.metrics import Metrics
from mesh.placement import (
    LoadFailed,
    LoadFinished,
    LoadTimedOut,
    MeasureSize,
    PredictSize,
    SizeMeasured,
    SizePredicted,
    StartLoad,
    StartUnload,
    UnloadFailed,
    UnloadFinished,
    to_units,
)
from mesh.runtimes import LoadedModel, ModelInfo, ModelRuntime, RuntimeFailure
from mesh.tracing import MODEL, OpenSpan, record, span

log = logging.getLogger(__name__)

#: A load does not wait longer than this for its size to be predicted, seconds; listing remote storage is part of it.
PREDICT_TIMEOUT_S = 3.0


#: The histogram of what loads are made of.
COLD_START = "coldstart_milliseconds"


class ServerCalls:
    """Calls of one model server.

    Args:
        on_load_time: called with a model and the milliseconds that its load took.
        now_ms: epoch milliseconds; never goes back.
    """

    def __init__(
        self,
        runtime: ModelRuntime,
        metrics: Metrics,
        on_load_time: Callable[[ModelInfo, float], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._on_load_time = on_load_time
        self._now_ms = now_ms

    async def predict_size(self, order: PredictSize, model: ModelInfo) -> SizePredicted:
        """Asks how large a model is going to be."""
        try:
            with _sizing(order.model_id, "predicted"):
                async with asyncio.timeout(PREDICT_TIMEOUT_S):
                    size = await self._runtime.predict_size(model)
        except Exception as error:  # noqa: BLE001 - see above
            _log(error, "size not predicted", order.model_id)
            size = None
        return SizePredicted(order.model_id, order.load_id, None if size is None else to_units(size))

    async def load(
        self, order: StartLoad, model: ModelInfo
    ) -> tuple[LoadFinished | LoadFailed | LoadTimedOut, int]:
        """Loads a model.

        Returns: how that went, and how many requests the copy takes at once, 0 for any number.
        """
        self._metrics.observe("loading_queue_delay_milliseconds", order.queued_ms, order.model_id)
        record("mesh.load.queue", order.queued_ms, {MODEL: order.model_id})
        began = time.monotonic()
        deadline = asyncio.timeout(order.timeout_ms / 1_000)
        try:
            async with deadline:
                with span("mesh.load.server", {MODEL: order.model_id}):
                    loaded = await self._runtime.load(model)
        except Exception as error:  # noqa: BLE001 - see above
            self._metrics.count("loadmodel_failure")
            if deadline.expired() and isinstance(error, TimeoutError):
                return LoadTimedOut(order.model_id, order.load_id), 0
            return _load_failed(order, error), 0
        elapsed_ms = (time.monotonic() - began) * 1_000
        self._metrics.observe("loadmodel_milliseconds", elapsed_ms, order.model_id)
        self._observe_phases(order, elapsed_ms, loaded)
        self._on_load_time(model, elapsed_ms)
        finished = LoadFinished(
            order.model_id, order.load_id, to_units(loaded.size_bytes), load_ms=max(1, int(elapsed_ms))
        )
        return finished, loaded.max_concurrency

    def _observe_phases(self, order: StartLoad, elapsed_ms: float, loaded: LoadedModel) -> None:
        phases = {
            "queue": order.queued_ms,
            "pull": loaded.pull_ms,
            "load": elapsed_ms - loaded.pull_ms,
            "total": order.queued_ms + elapsed_ms,
        }
        for phase, milliseconds in phases.items():
            self._metrics.observe(COLD_START, milliseconds, order.model_id, phase)

    async def measure_size(self, order: MeasureSize) -> SizeMeasured:
        """Asks how large a loaded model is."""
        began = time.monotonic()
        try:
            with _sizing(order.model_id, "measured"):
                size = await self._runtime.model_size(order.model_id)
        except Exception as error:  # noqa: BLE001 - see above
            _log(error, "size not measured", order.model_id)
            size = None
        elapsed_ms = (time.monotonic() - began) * 1_000
        self._metrics.observe("model_sizing_milliseconds", elapsed_ms, order.model_id)
        self._metrics.observe(COLD_START, elapsed_ms, order.model_id, "size")
        return SizeMeasured(order.model_id, order.load_id, None if size is None else to_units(size))

    async def unload(self, order: StartUnload) -> UnloadFinished | UnloadFailed:
        """Unloads a model, when it is time."""
        await asyncio.sleep(max(0, order.not_before_ms - self._now_ms()) / 1_000)
        began = time.monotonic()
        try:
            await self._runtime.unload(order.model_id)
        except Exception as error:  # noqa: BLE001 - see above
            self._metrics.count("unloadmodel_attempt_failure")
            _log(error, "unload failed", order.model_id)
            return UnloadFailed(order.model_id, _text(error))
        self._metrics.observe("unloadmodel_milliseconds", (time.monotonic() - began) * 1_000, order.model_id)
        return UnloadFinished(order.model_id)


def _sizing(model_id: str, how: str) -> AbstractContextManager[OpenSpan]:
    return span("mesh.size", {MODEL: model_id, "mesh.size.how": how})


def _load_failed(order: StartLoad, error: Exception) -> LoadFailed:
    if isinstance(error, RuntimeFailure):
        code, text = error.code, error.message if error.code is grpc.StatusCode.UNKNOWN else str(error)
    else:
        _log(error, "load broke off", order.model_id)
        code, text = grpc.StatusCode.INTERNAL, _text(error)
    return LoadFailed(order.model_id, order.load_id, int(code.value[0]), text)


def _log(error: Exception, what: str, model_id: str) -> None:
    """Logs why a call failed; a driver's own mistake with its trace."""
    expected = isinstance(error, RuntimeFailure | TimeoutError)
    log.warning("%s: %s", what, _text(error), exc_info=None if expected else error, extra={"model": model_id})


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, RuntimeFailure) else repr(error)
