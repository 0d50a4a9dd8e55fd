"""Carries out what `mesh.placement.LocalCache` decides for the copies of this instance.

The cache is a state machine: events go in, instructions come out. Everything here is effect: calls of the model
server, writes to the registry, routes of the data plane, timers, and the futures of those who wait.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import grpc

from mesh.dataplane import DataPlane, Usage
from mesh.instance.chronicle import Chronicle
from mesh.instance.errors import status_from_number
from mesh.instance.load_trace import LoadTrace
from mesh.instance.outcomes import RUNTIME_DOWN, LoadOutcome
from mesh.instance.registration import Registration
from mesh.instance.server_calls import ServerCalls
from mesh.instance.usage import Rates
from mesh.placement import (
    UNKNOWN_SIZE,
    CacheLimits,
    CancelLoad,
    CloseCopy,
    CopyBusy,
    CopyClosed,
    CopyState,
    CopyView,
    Deregister,
    Event,
    ForgetFailure,
    Instruction,
    KnownSize,
    LimitsChanged,
    LoadFailed,
    LoadRequested,
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
    ReportSize,
    RuntimeLost,
    RuntimeRestarted,
    ShutdownStarted,
    StartLoad,
    StartUnload,
    Tick,
    Used,
    WakeAt,
)
from mesh.registry import ALONE, Company
from mesh.runtimes import ModelInfo

log = logging.getLogger(__name__)

#: How often the data plane is asked what was used, seconds; it is also asked before each load.
USAGE_INTERVAL_S = 0.25


#: Share of the time that goes into reading usage before loads, at most: thousands of streams may be open.
READING_SHARE = 0.1
#: That a model server is gone is noticed within this after a call of it failed, seconds.
LOSS_NOTICE_S = 0.25
_UNAVAILABLE = int(grpc.StatusCode.UNAVAILABLE.value[0])
#: Of these the model server has not heard.
_NOT_BEGUN = frozenset({CopyState.NEW, CopyState.QUEUED, CopyState.WAITING})


@dataclass(slots=True, eq=False)
class _Wanted:
    """A load that was asked for and has not been reported on; while there is one, the cache has its entry.

    Attributes:
        company: the copies elsewhere with which it may be.
        outcome: what all who wait for this load share.
        max_concurrency: requests that the copy takes at once, as the model server said when it had loaded it.
    """

    model: ModelInfo
    company: Company
    outcome: asyncio.Future[LoadOutcome]
    trace: LoadTrace
    max_concurrency: int = 0


class Loader:
    """The copies of one instance.

    Args:
        cache: decides.
        server: loads and unloads.
        dataplane: tells what is used and takes copies out of service.
        registration: writes copies and failures to the models' records.
        chronicle: is told what happened.
        rates: takes the requests of each copy.
        on_copy_changed: called with a model's id when its copy begins or ends to serve.
        on_change: called when loads or memory may have changed.
        now_ms: epoch milliseconds; never goes back.
    """

    def __init__(
        self,
        cache: LocalCache,
        server: ServerCalls,
        dataplane: DataPlane,
        registration: Registration,
        chronicle: Chronicle,
        rates: Rates,
        *,
        on_copy_changed: Callable[[str], None],
        on_change: Callable[[], None],
        now_ms: Callable[[], int],
    ) -> None:
        self.cache = cache
        self._server = server
        self._dataplane = dataplane
        self._registration = registration
        self._chronicle = chronicle
        self._rates = rates
        self._on_copy_changed = on_copy_changed
        self._on_change = on_change
        self._now_ms = now_ms
        self._wanted: dict[str, _Wanted] = {}
        self._serving: dict[str, int] = {}
        self._loads: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._unloads: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._events: deque[Event] = deque()
        self._handling = False
        self._available = True
        self._read_again_s = 0.0
        self._usage_watchers: list[Callable[[Usage], None]] = []

    # What others ask

    def load(
        self,
        model: ModelInfo,
        *,
        last_used_ms: int,
        urgent: bool,
        size: KnownSize = UNKNOWN_SIZE,
        why: str = "",
        company: Company = ALONE,
    ) -> asyncio.Future[LoadOutcome]:
        """Has a copy loaded here, or joins the load that is under way.

        Args:
            model: what the model server is to load.
            last_used_ms: epoch milliseconds of the use that asks; 0 for now.
            urgent: a request waits.
            size: what is known of its size.
            why: for people.
            company: the copies elsewhere with which it may be.

        Returns: a future that all who wait for this load share; shield it before cancelling.
        """
        model_id = model.model_id
        if not self._available:
            down: asyncio.Future[LoadOutcome] = asyncio.get_running_loop().create_future()
            down.set_result(RUNTIME_DOWN)
            return down
        if time.monotonic() >= self._read_again_s:
            # First of all: what was used may end a load of this very model that waited for room.
            self.read_usage()
        wanted = self._wanted.get(model_id)
        if wanted is None:
            outcome: asyncio.Future[LoadOutcome] = asyncio.get_running_loop().create_future()
            wanted = self._wanted[model_id] = _Wanted(model, company, outcome, LoadTrace(model))
        else:
            wanted.trace.joined(wanted.outcome)
        self.handle(
            LoadRequested(
                model_id,
                last_used_ms=last_used_ms,
                urgent=urgent,
                size=size,
                why=why,
            )
        )
        return wanted.outcome

    def is_serving(self, model_id: str) -> bool:
        """Whether the copy here may be in a route."""
        return model_id in self._serving

    def is_loading(self, model_id: str) -> bool:
        """Whether a copy is on its way here."""
        return model_id in self._wanted

    def max_concurrency(self, model_id: str) -> int:
        """Requests that the copy takes at once; 0 for any number."""
        return self._serving.get(model_id, 0)

    def loads_in_progress(self) -> int:
        """Loads that have not ended."""
        return self.cache.loads_in_progress

    def copies(self) -> list[CopyView]:
        """Every entry of the cache."""
        return self.cache.copies()

    def waiting(self, model_id: str) -> asyncio.Future[LoadOutcome] | None:
        """The load that is under way here, if there is one."""
        wanted = self._wanted.get(model_id)
        return None if wanted is None else wanted.outcome

    def hurry(self, model_id: str) -> None:
        """A request waits for the load that is under way: it goes ahead of those that nobody waits for."""
        if (wanted := self._wanted.get(model_id)) is not None:
            wanted.trace.joined(wanted.outcome)
            self.handle(LoadRequested(model_id, last_used_ms=self._now_ms(), urgent=True))

    def remove(self, model_id: str, reason: RemovalReason) -> None:
        """Takes the copy away, loaded or on its way."""
        self.handle(RemoveRequested(model_id, reason))

    def lost(self, model_id: str, sent_ms_ago: int) -> None:
        """The model server did not know the model when it answered a request.

        Args:
            sent_ms_ago: how long ago that request was sent, milliseconds; the model may have been loaded again since.
        """
        self.handle(RuntimeLost(model_id, self._now_ms() - max(0, sent_ms_ago)))

    def lost_all(self) -> None:
        """The model server is gone and its memory with it; what it was to load goes elsewhere."""
        for unload in self._unloads.values():
            # Its successor must not be told to unload what it may have loaded by then.
            unload.cancel()
        self.handle(RuntimeRestarted())
        for copy in self.cache.copies():
            if copy.state in _NOT_BEGUN:
                self.remove(copy.model_id, RemovalReason.RUNTIME_LOST)

    def set_limits(self, limits: CacheLimits) -> None:
        """From now on the model server has this much for models, and loads as many at once."""
        self.handle(LimitsChanged(limits))

    def set_available(self, available: bool) -> None:
        """Whether the model server is there; while it is not, loads are refused."""
        self._available = available

    def stop_loading(self) -> None:
        """Begins no load any more; copies stay."""
        self.handle(ShutdownStarted())

    def watch_usage(self, watch: Callable[[Usage], None]) -> None:
        """Has ``watch`` called with what was asked of each copy, every `USAGE_INTERVAL_S` or more often."""
        self._usage_watchers.append(watch)

    def read_usage(self) -> None:
        """Lets the cache know what was used since the last time."""
        began_s = time.thread_time()
        for usage in self._dataplane.take_usage():
            limit = self._serving.get(usage.model_id, 0)
            busy_ms = usage.service_ms / limit if limit else 0.0
            if usage.requests or busy_ms:
                self._rates.add(usage.model_id, usage.requests, time.monotonic(), busy_ms)
            for watch in self._usage_watchers:
                watch(usage)
            self.handle(Used(usage.model_id, usage.last_used_ms, usage.in_flight))
        self._read_again_s = time.monotonic() + (time.thread_time() - began_s) / READING_SHARE

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
                work = self._register(instruction, self._wanted[instruction.model_id])
                self._start(instruction.model_id, work)
            case PredictSize():
                model = self._wanted[instruction.model_id].model
                work = self._then_handle(self._server.predict_size(instruction, model))
                self._start(instruction.model_id, work)
            case StartLoad():
                key = (instruction.model_id, instruction.load_id)
                wanted = self._wanted[instruction.model_id]
                task = self._loads[key] = self._start(key[0], self._load(instruction, wanted))
                task.add_done_callback(lambda _: self._loads.pop(key, None))
            case CancelLoad():
                if load := self._loads.get((instruction.model_id, instruction.load_id)):
                    load.cancel()
            case MeasureSize():
                work = self._then_handle(self._server.measure_size(instruction))
                self._start(instruction.model_id, work)
            case CloseCopy():
                self._close_copy(instruction)
            case Deregister():
                self._leave_service(instruction.model_id)
                self._registration.remove_copy(instruction.model_id, instruction.last_used_ms)
                self._chronicle.left(instruction)
            case StartUnload():
                work = self._then_handle(self._server.unload(instruction))
                unload = self._start(instruction.model_id, work)
                self._unloads[instruction.model_id] = unload
                unload.add_done_callback(lambda done: self._unload_ended(instruction.model_id, done))
            case ReportLoaded():
                self._report_loaded(instruction)
            case ReportSize():
                self._registration.learn_size(instruction.model_id, instruction.units)
                self._chronicle.sized(instruction)
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

    def _start(self, model_id: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        wanted = self._wanted.get(model_id)
        # Not that of the event which happens to lead here: it may be about another model, or long ago.
        context = Context() if wanted is None else wanted.trace.context.copy()
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a step of a load broke off", exc_info=error)

    def _unload_ended(self, model_id: str, task: asyncio.Task[None]) -> None:
        # A failed unload has had the next one started by then.
        if self._unloads.get(model_id) is task:
            del self._unloads[model_id]

    def _wake_at(self, time_ms: int) -> None:
        if time_ms in self._timers:
            return

        def wake() -> None:
            del self._timers[time_ms]
            if self._now_ms() < time_ms:
                # Two clocks never agree; the cache would think nothing of a tick that comes early.
                self._wake_at(time_ms)
                return
            self.read_usage()
            self.handle(Tick())

        delay_s = max(0, time_ms - self._now_ms()) / 1_000
        # Not in the context of the request that happens to be about.
        self._timers[time_ms] = asyncio.get_running_loop().call_later(delay_s, wake, context=Context())

    # The registry

    async def _register(self, order: Register, wanted: _Wanted) -> None:
        refusal = await self._registration.add_copy(order.model_id, order.last_used_ms, wanted.company)
        if refusal is None:
            self.handle(Registered(order.model_id, order.load_id))
        else:
            self.handle(
                RegistrationRefused(
                    order.model_id,
                    order.load_id,
                    refusal.message,
                    retry_elsewhere=refusal.look_again,
                    enough_copies=refusal.most,
                )
            )

    # The model server

    async def _load(self, order: StartLoad, wanted: _Wanted) -> None:
        event, wanted.max_concurrency = await self._server.load(order, wanted.model)
        if isinstance(event, LoadFailed) and event.code == _UNAVAILABLE:
            # The server may be gone. The next load must not fail before that is known: it would be held against
            # its model.
            await asyncio.sleep(LOSS_NOTICE_S)
        self.handle(event)

    async def _then_handle(self, call: Coroutine[Any, Any, Event]) -> None:
        self.handle(await call)

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
            wanted = self._wanted[model_id]
            wanted.trace.loaded(report.units)
            self._serving[model_id] = wanted.max_concurrency
            if wanted.company.copies > 1:
                self._registration.confirm_copy(model_id)
            self._on_copy_changed(model_id)
            self._chronicle.loaded(model_id, report.units, self.cache.copy(model_id))
        self._resolve(model_id, LoadOutcome(loaded=True))

    def _report_failed(self, report: ReportFailed) -> None:
        self._chronicle.failed(report)
        if report.fresh:
            self._registration.move_to_failures(report.model_id, report.message, report.reason.value)
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

    def _resolve(self, model_id: str, outcome: LoadOutcome) -> None:
        wanted = self._wanted.pop(model_id, None)
        if wanted is not None:
            wanted.trace.ended(outcome)
            if not wanted.outcome.done():
                wanted.outcome.set_result(outcome)
