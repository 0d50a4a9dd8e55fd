"""Carries out what `mesh.placement.LocalCache` decides for the copies of this instance.

The cache is a state machine: events go in, instructions come out. Everything here is effect: calls of the model
server, writes to the registry, routes of the data plane, timers, and the futures of those who wait.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from mesh.dataplane import DataPlane
from mesh.instance.chronicle import Chronicle
from mesh.instance.errors import status_from_number
from mesh.instance.metrics import Metrics
from mesh.instance.outcomes import RUNTIME_DOWN, LoadOutcome
from mesh.instance.registration import Registration
from mesh.instance.usage import Rates
from mesh.placement import (
    CancelLoad,
    CloseCopy,
    CopyBusy,
    CopyClosed,
    CopyView,
    Deregister,
    Event,
    ForgetFailure,
    Instruction,
    LoadFailed,
    LoadFinished,
    LoadRequested,
    LoadTimedOut,
    LocalCache,
    MeasureSize,
    PredictSize,
    Register,
    Registered,
    RegistrationRefused,
    RemovalReason,
    RemoveRequested,
    ReportCapacityLost,
    ReportEvicted,
    ReportFailed,
    ReportLoaded,
    ReportRefused,
    RuntimeLost,
    RuntimeRestarted,
    ShutdownStarted,
    SizeMeasured,
    SizePredicted,
    StartLoad,
    StartUnload,
    Tick,
    UnloadFailed,
    UnloadFinished,
    Used,
    WakeAt,
    to_units,
)
from mesh.runtimes import ModelInfo, ModelRuntime, RuntimeFailure

log = logging.getLogger(__name__)

#: How often the data plane is asked what was used, seconds; it is also asked before each load.
USAGE_INTERVAL_S = 0.5
#: A load does not wait longer than this for its size to be predicted, seconds; listing remote storage is part of it.
PREDICT_TIMEOUT_S = 3.0


class Loader:
    """The copies of one instance.

    Args:
        cache: decides.
        runtime: loads and unloads.
        dataplane: tells what is used and takes copies out of service.
        registration: writes copies and failures to the models' records.
        chronicle: is told what happened.
        rates: takes the requests of each copy.
        on_copy_changed: called with a model's id when its copy begins or ends to serve.
        on_change: called when loads or memory may have changed.
        on_load_time: called with a model's type and the milliseconds that its load took.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        cache: LocalCache,
        runtime: ModelRuntime,
        dataplane: DataPlane,
        registration: Registration,
        chronicle: Chronicle,
        metrics: Metrics,
        rates: Rates,
        *,
        on_copy_changed: Callable[[str], None],
        on_change: Callable[[], None],
        on_load_time: Callable[[str, float], None],
        now_ms: Callable[[], int],
    ) -> None:
        self.cache = cache
        self._runtime = runtime
        self._dataplane = dataplane
        self._registration = registration
        self._chronicle = chronicle
        self._metrics = metrics
        self._rates = rates
        self._on_copy_changed = on_copy_changed
        self._on_change = on_change
        self._on_load_time = on_load_time
        self._now_ms = now_ms
        self._models: dict[str, ModelInfo] = {}
        self._beside: dict[str, frozenset[str]] = {}
        self._concurrency: dict[str, int] = {}
        self._serving: dict[str, int] = {}
        self._waiters: dict[str, asyncio.Future[LoadOutcome]] = {}
        self._loads: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._events: deque[Event] = deque()
        self._handling = False
        self._evicted_for: dict[str, list[str]] = {}
        self._available = True

    # What others ask

    def load(
        self,
        model: ModelInfo,
        *,
        last_used_ms: int,
        urgent: bool,
        size_hint_bytes: int = 0,
        why: str = "",
        beside: frozenset[str] = frozenset(),
    ) -> asyncio.Future[LoadOutcome]:
        """Has a copy loaded here, or joins the load that is under way.

        Returns: a future that all who wait for this load share; shield it before cancelling.
        """
        model_id = model.model_id
        if not self._available:
            down: asyncio.Future[LoadOutcome] = asyncio.get_running_loop().create_future()
            down.set_result(RUNTIME_DOWN)
            return down
        waiter = self._waiters.get(model_id)
        if waiter is None:
            waiter = self._waiters[model_id] = asyncio.get_running_loop().create_future()
        if self.cache.copy(model_id) is None:
            self._models[model_id] = model
            self._beside[model_id] = beside
        self.read_usage()
        self.handle(
            LoadRequested(
                model_id,
                last_used_ms=last_used_ms,
                urgent=urgent,
                size_hint_units=to_units(size_hint_bytes),
                why=why,
            )
        )
        return waiter

    def is_serving(self, model_id: str) -> bool:
        """Whether the copy here may be in a route."""
        return model_id in self._serving

    def is_loading(self, model_id: str) -> bool:
        """Whether a copy is on its way here."""
        return model_id in self._waiters

    def max_concurrency(self, model_id: str) -> int:
        """Requests that the copy takes at once; 0 for any number."""
        return self._serving.get(model_id, 0)

    def copies(self) -> list[CopyView]:
        """Every entry of the cache."""
        return self.cache.copies()

    def waiting(self, model_id: str) -> asyncio.Future[LoadOutcome] | None:
        """The load that is under way here, if there is one."""
        return self._waiters.get(model_id)

    def remove(self, model_id: str, reason: RemovalReason) -> None:
        """Takes the copy away, loaded or on its way."""
        self.handle(RemoveRequested(model_id, reason))

    def lost(self, model_id: str) -> None:
        """The model server does not know the model any more."""
        self.handle(RuntimeLost(model_id))

    def lost_all(self) -> None:
        """The model server is gone and its memory with it."""
        self.handle(RuntimeRestarted())

    def set_available(self, available: bool) -> None:
        """Whether the model server is there; while it is not, loads are refused."""
        self._available = available

    def stop_loading(self) -> None:
        """Begins no load any more; copies stay."""
        self.handle(ShutdownStarted())

    def read_usage(self) -> None:
        """Lets the cache know what was used since the last time."""
        for usage in self._dataplane.take_usage():
            if usage.requests:
                self._rates.add(usage.model_id, usage.requests, time.monotonic())
            self.handle(Used(usage.model_id, usage.last_used_ms, usage.in_flight))

    async def keep_reading_usage(self) -> None:
        """Reads usage until cancelled."""
        while True:
            self.read_usage()
            self._rates.expire(time.monotonic())
            await asyncio.sleep(USAGE_INTERVAL_S)

    async def close(self) -> None:
        """Cancels what is under way; copies stay in the model server."""
        for timer in self._timers.values():
            timer.cancel()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Events in, instructions out

    def handle(self, event: Event) -> None:
        """Gives an event to the cache and carries out what it says, and what follows from that."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                for instruction in self.cache.handle(self._events.popleft(), self._now_ms()):
                    self._carry_out(instruction)
        finally:
            self._handling = False
        self._on_change()

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Register():
                self._start(self._register(instruction))
            case PredictSize():
                self._start(self._predict_size(instruction))
            case StartLoad():
                key = (instruction.model_id, instruction.load_id)
                task = self._loads[key] = self._start(self._load(instruction))
                task.add_done_callback(lambda _: self._loads.pop(key, None))
            case CancelLoad():
                if load := self._loads.get((instruction.model_id, instruction.load_id)):
                    load.cancel()
            case MeasureSize():
                self._start(self._measure_size(instruction))
            case CloseCopy():
                self._close_copy(instruction)
            case Deregister():
                self._leave_service(instruction.model_id)
                self._registration.remove_copy(instruction.model_id)
                self._chronicle.left(instruction)
            case StartUnload():
                self._start(self._unload(instruction))
            case ReportLoaded():
                self._report_loaded(instruction)
            case ReportFailed():
                self._report_failed(instruction)
            case ReportRefused():
                self._report_refused(instruction)
            case ForgetFailure():
                self._registration.remove_failure(instruction.model_id)
            case ReportEvicted():
                self._chronicle.evicted(instruction)
            case ReportCapacityLost():
                self._chronicle.capacity_lost(instruction)
            case WakeAt():
                self._wake_at(instruction.time_ms)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a step of a load broke off", exc_info=error)

    def _wake_at(self, time_ms: int) -> None:
        if time_ms in self._timers:
            return

        def wake() -> None:
            del self._timers[time_ms]
            self.read_usage()
            self.handle(Tick())

        delay_s = max(0, time_ms - self._now_ms()) / 1_000
        self._timers[time_ms] = asyncio.get_running_loop().call_later(delay_s, wake)

    # The registry

    async def _register(self, order: Register) -> None:
        refusal = await self._registration.add_copy(
            order.model_id, order.last_used_ms, beside=self._beside.get(order.model_id, frozenset())
        )
        if refusal is None:
            self.handle(Registered(order.model_id, order.load_id))
        else:
            self.handle(
                RegistrationRefused(
                    order.model_id, order.load_id, refusal.message, retry_elsewhere=refusal.look_again
                )
            )

    # The model server

    async def _predict_size(self, order: PredictSize) -> None:
        try:
            async with asyncio.timeout(PREDICT_TIMEOUT_S):
                size = await self._runtime.predict_size(self._models[order.model_id])
        except (RuntimeFailure, TimeoutError) as failure:
            log.warning("size not predicted: %s", failure, extra={"model": order.model_id})
            size = None
        self.handle(SizePredicted(order.model_id, order.load_id, None if size is None else to_units(size)))

    async def _load(self, order: StartLoad) -> None:
        self._metrics.observe("loading_queue_delay_milliseconds", order.queued_ms, order.model_id)
        began = time.monotonic()
        try:
            async with asyncio.timeout(order.timeout_ms / 1_000):
                loaded = await self._runtime.load(self._models[order.model_id])
        except TimeoutError:
            self._metrics.count("loadmodel_failure")
            self.handle(LoadTimedOut(order.model_id, order.load_id))
            return
        except RuntimeFailure as failure:
            self._metrics.count("loadmodel_failure")
            code = int(failure.code.value[0])
            message = failure.message if failure.code is grpc.StatusCode.UNKNOWN else str(failure)
            self.handle(LoadFailed(order.model_id, order.load_id, code, message))
            return
        elapsed_ms = (time.monotonic() - began) * 1_000
        self._metrics.observe("loadmodel_milliseconds", elapsed_ms, order.model_id)
        self._on_load_time(self._models[order.model_id].model_type, elapsed_ms)
        self._concurrency[order.model_id] = loaded.max_concurrency
        self.handle(LoadFinished(order.model_id, order.load_id, to_units(loaded.size_bytes)))

    async def _measure_size(self, order: MeasureSize) -> None:
        began = time.monotonic()
        try:
            size = await self._runtime.model_size(order.model_id)
        except RuntimeFailure as failure:
            log.warning("size not measured: %s", failure, extra={"model": order.model_id})
            size = None
        self._metrics.observe("model_sizing_milliseconds", (time.monotonic() - began) * 1_000, order.model_id)
        self.handle(SizeMeasured(order.model_id, order.load_id, None if size is None else to_units(size)))

    async def _unload(self, order: StartUnload) -> None:
        await asyncio.sleep(max(0, order.not_before_ms - self._now_ms()) / 1_000)
        began = time.monotonic()
        try:
            await self._runtime.unload(order.model_id)
        except RuntimeFailure as failure:
            self._metrics.count("unloadmodel_attempt_failure")
            log.warning("unload failed: %s", failure, extra={"model": order.model_id})
            self.handle(UnloadFailed(order.model_id, str(failure)))
            return
        self._metrics.observe("unloadmodel_milliseconds", (time.monotonic() - began) * 1_000, order.model_id)
        self._forget(order.model_id)
        self.handle(UnloadFinished(order.model_id))

    def _forget(self, model_id: str) -> None:
        if model_id not in self._waiters and self.cache.copy(model_id) is None:
            self._models.pop(model_id, None)
            self._beside.pop(model_id, None)
            self._concurrency.pop(model_id, None)

    # The data plane

    def _close_copy(self, order: CloseCopy) -> None:
        in_flight = self._dataplane.close_local(order.model_id)
        if in_flight == 0:
            self._leave_service(order.model_id)
            self._events.append(CopyClosed(order.model_id))
            return
        if order.drain:
            self._leave_service(order.model_id)
        self._events.append(CopyBusy(order.model_id, in_flight))

    def _leave_service(self, model_id: str) -> None:
        if self._serving.pop(model_id, None) is not None:
            self._on_copy_changed(model_id)

    # Reports

    def _report_loaded(self, report: ReportLoaded) -> None:
        model_id = report.model_id
        if report.fresh:
            self._serving[model_id] = self._concurrency.pop(model_id, 0)
            self._on_copy_changed(model_id)
            self._chronicle.loaded(model_id, report.units, self.cache.copy(model_id))
        self._resolve(model_id, LoadOutcome(loaded=True))

    def _report_failed(self, report: ReportFailed) -> None:
        self._chronicle.failed(report)
        if report.fresh:
            self._registration.move_to_failures(report.model_id, report.message)
        self._resolve(
            report.model_id,
            LoadOutcome(
                loaded=False,
                reason=report.reason.value,
                code=status_from_number(report.code),
                message=report.message,
                retry_elsewhere=report.retry_elsewhere,
                failed=True,
            ),
        )

    def _report_refused(self, report: ReportRefused) -> None:
        self._chronicle.refused(report)
        self._resolve(
            report.model_id,
            LoadOutcome(
                loaded=False,
                reason=report.reason.value,
                code=grpc.StatusCode.RESOURCE_EXHAUSTED,
                message=report.message,
                retry_elsewhere=report.retry_elsewhere,
            ),
        )
        self._forget(report.model_id)

    def _resolve(self, model_id: str, outcome: LoadOutcome) -> None:
        waiter = self._waiters.pop(model_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(outcome)
