"""Carries out what `mesh.placement.LocalCache` decides for the copies of a simulated instance."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from mesh.placement import (
    UNKNOWN_SIZE,
    CancelLoad,
    CloseCopy,
    CopyBusy,
    CopyClosed,
    CopyState,
    Deregister,
    Event,
    ForgetFailure,
    Instruction,
    KnownSize,
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
    ReportSize,
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
)
from mesh.registry import ALONE, Company
from mesh.simulation.agenda import Signal
from mesh.simulation.models import Copy, Model
from mesh.simulation.server import MEASURE_US, PREDICT_US, UNLOAD_US

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance

#: gRPC's number of UNAVAILABLE: storage is away.
_UNAVAILABLE = 14
#: Of these the model server has not heard.
_NOT_BEGUN = frozenset({CopyState.NEW, CopyState.QUEUED, CopyState.WAITING})


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """How a load ended; see `mesh.placement.LoadAnswer`."""

    loaded: bool
    reason: str = ""
    message: str = ""
    retry_elsewhere: bool = False
    failed: bool = False


LOADED = LoadOutcome(loaded=True)
SERVER_DOWN = LoadOutcome(
    loaded=False, reason="runtime_down", message="the model server is down", retry_elsewhere=True
)


@dataclass(slots=True, eq=False)
class Wanted:
    """A load that was asked for and has not been reported on."""

    model: Model
    company: Company
    since_us: int
    outcome: Signal


class Loader:
    """The copies of one simulated instance.

    Attributes:
        serving: copies that requests may go to, by model id.
        wanted: loads that have not been reported on, by model id.
        available: the model server is there.
    """

    def __init__(self, instance: "Instance", cache: LocalCache) -> None:
        self.cache = cache
        self.serving: dict[str, Copy] = {}
        #: Copies that the model server holds, also those that take no more requests.
        self._tracked: dict[str, Copy] = {}
        self.wanted: dict[str, Wanted] = {}
        self.available = True
        self._instance = instance
        self._agenda = instance.agenda
        self._server = instance.server
        self._events: deque[Event] = deque()
        self._handling = False
        self._wakes: set[int] = set()
        #: Model ids with the last use of their copy since usage was last read, epoch milliseconds.
        self.used: dict[str, int] = {}

    def load(
        self,
        model: Model,
        *,
        last_used_ms: int,
        urgent: bool,
        size: KnownSize = UNKNOWN_SIZE,
        company: Company = ALONE,
    ) -> Signal:
        """Has a copy loaded here, or joins the load that is under way; the signal's value is a `LoadOutcome`."""
        if not self.available:
            down = Signal()
            down.set(SERVER_DOWN)
            return down
        # First of all: what was used may end a load of this very model that waited for room.
        self.read_usage()
        wanted = self.wanted.get(model.model_id)
        if wanted is None:
            wanted = self.wanted[model.model_id] = Wanted(model, company, self._agenda.now_us, Signal())
        self.handle(LoadRequested(model.model_id, last_used_ms, urgent, size))
        return wanted.outcome

    def all_copies(self) -> list[Copy]:
        """Copies in the model server, also those that take no more requests."""
        return list(self._tracked.values())

    def hurry(self, model_id: str) -> None:
        """A request waits for the load that is under way."""
        if model_id in self.wanted:
            self.handle(LoadRequested(model_id, last_used_ms=self._instance.now_ms, urgent=True))

    def remove(self, model_id: str, reason: RemovalReason) -> None:
        """Takes the copy away, loaded or on its way."""
        self.handle(RemoveRequested(model_id, reason))

    def lost(self, model_id: str) -> None:
        """The model server does not know the model any more."""
        self.handle(RuntimeLost(model_id))

    def lost_all(self) -> None:
        """The model server is gone and its memory with it."""
        self.handle(RuntimeRestarted())
        for copy in self.cache.copies():
            if copy.state in _NOT_BEGUN:
                self.remove(copy.model_id, RemovalReason.RUNTIME_LOST)

    def stop_loading(self) -> None:
        """Begins no load any more; copies stay."""
        self.handle(ShutdownStarted())

    def read_usage(self) -> None:
        """Lets the cache know what was used since the last time."""
        if not self.used:
            return
        used, self.used = self.used, {}
        tracked, now_us = self._tracked, self._agenda.now_us
        for model_id, last_used_ms in used.items():
            copy = tracked.get(model_id)
            if copy is not None:
                self._instance.scaling.note(copy)
            self.handle(Used(model_id, last_used_ms, 0 if copy is None else copy.in_flight(now_us)))

    # Events in, instructions out

    def handle(self, event: Event) -> None:
        """Gives an event to the cache and carries out what it says, and what follows from that."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        now_ms = self._instance.now_ms
        try:
            while self._events:
                for instruction in self.cache.handle(self._events.popleft(), now_ms):
                    self._carry_out(instruction)
        finally:
            self._handling = False
        self._instance.presence.changed()

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Register():
                self._register(instruction)
            case PredictSize():
                self._predict_size(instruction)
            case StartLoad():
                self._start_load(instruction)
            case MeasureSize():
                self._measure_size(instruction)
            case ReportLoaded():
                self._report_loaded(instruction)
            case ReportSize():
                self._report_size(instruction)
            case WakeAt():
                self._wake_at(instruction)
            case CloseCopy():
                self._close_copy(instruction)
            case Deregister():
                self._deregister(instruction)
            case StartUnload():
                self._start_unload(instruction)
            case ReportEvicted():
                self._report_evicted(instruction)
            case ReportRefused():
                self._report_refused(instruction)
            case ReportFailed():
                self._report_failed(instruction)
            case ForgetFailure():
                self._forget_failure(instruction)
            case CancelLoad():
                self._cancel_load(instruction)
            case ReportCapacityLost():
                self._report_capacity_lost(instruction)
            case _:
                assert_never(instruction)

    def _register(self, order: Register) -> None:
        self._instance.start(self._registering(order, self.wanted[order.model_id]))

    def _registering(self, order: Register, wanted: Wanted) -> Generator[Any, Any, None]:
        refusal = yield self._instance.registration.add_copy(
            order.model_id, order.last_used_ms, wanted.company
        )
        if refusal is None:
            self.handle(Registered(order.model_id, order.load_id))
        else:
            self.handle(
                RegistrationRefused(
                    order.model_id, order.load_id, refusal.message, retry_elsewhere=refusal.look_again
                )
            )

    def _predict_size(self, order: PredictSize) -> None:
        units = self.wanted[order.model_id].model.told_units
        event = SizePredicted(order.model_id, order.load_id, units or None)
        self._instance.after(PREDICT_US, self.handle, event)

    def _start_load(self, order: StartLoad) -> None:
        self._instance.start(self._loading(order, self.wanted[order.model_id].model))

    def _loading(self, order: StartLoad, model: Model) -> Generator[Any, Any, None]:
        server, agenda = self._server, self._agenda
        incarnation, world = server.incarnation, self._instance.world
        began_us = agenda.now_us
        duration_us, succeeds = server.begin_load(model, order.units)
        world.load_began(self._instance, model)
        timeout_us = order.timeout_ms * 1_000
        yield min(duration_us, timeout_us)
        if server.incarnation != incarnation:
            self.handle(LoadFailed(order.model_id, order.load_id, _UNAVAILABLE, "the model server is gone"))
        elif not self._is_under_way(order):
            # It was cancelled: what it took goes with the unload that was ordered.
            server.break_load(order.model_id)
        elif duration_us > timeout_us:
            server.break_load(order.model_id)
            self.handle(LoadTimedOut(order.model_id, order.load_id))
        elif not succeeds:
            server.break_load(order.model_id)
            self.handle(LoadFailed(order.model_id, order.load_id, _UNAVAILABLE, "storage is away"))
        else:
            server.end_load(model)
            self._instance.load_times.add(model.type, (agenda.now_us - began_us) / 1_000)
            took_ms = max(1, (agenda.now_us - began_us) // 1_000)
            self.handle(LoadFinished(order.model_id, order.load_id, 0, load_ms=took_ms))

    def _is_under_way(self, order: StartLoad) -> bool:
        copy = self.cache.copy(order.model_id)
        return copy is not None and copy.state is CopyState.LOADING

    def _cancel_load(self, order: CancelLoad) -> None:
        self._server.break_load(order.model_id)

    def _measure_size(self, order: MeasureSize) -> None:
        units = self._server.held.get(order.model_id)
        self._instance.after(MEASURE_US, self.handle, SizeMeasured(order.model_id, order.load_id, units))

    def _close_copy(self, order: CloseCopy) -> None:
        copy = self._tracked.get(order.model_id)
        in_flight = 0 if copy is None else copy.in_flight(self._agenda.now_us)
        if in_flight == 0:
            self._leave_service(order.model_id)
            self._events.append(CopyClosed(order.model_id))
            return
        if order.drain:
            self._leave_service(order.model_id)
        self._events.append(CopyBusy(order.model_id, in_flight))

    def _deregister(self, order: Deregister) -> None:
        self._leave_service(order.model_id)
        self._instance.registration.remove_copy(order.model_id)

    def _start_unload(self, order: StartUnload) -> None:
        delay_us = max(0, (order.not_before_ms - self._instance.now_ms) * 1_000) + UNLOAD_US
        self._instance.after(delay_us, self._unloaded, order.model_id, self._server.incarnation)

    def _unloaded(self, model_id: str, incarnation: int) -> None:
        if self._server.incarnation != incarnation:
            return
        self._tracked.pop(model_id, None)
        if self._server.unload(model_id):
            self.handle(UnloadFinished(model_id))
        else:
            self.handle(UnloadFailed(model_id, "the model server is busy"))

    def _leave_service(self, model_id: str) -> None:
        copy = self.serving.pop(model_id, None)
        if copy is not None:
            copy.model.warm = None

    def _report_loaded(self, report: ReportLoaded) -> None:
        model_id = report.model_id
        if report.fresh:
            wanted = self.wanted[model_id]
            model = wanted.model
            if wanted.company.copies > 1:
                self._instance.registration.confirm_copy(model_id)
            model.warm = None
            self.serving[model_id] = self._tracked[model_id] = Copy(
                model, self._instance, self._agenda.now_us
            )
            self._instance.world.load_ended(self._instance, model)
            self._instance.loaded(model_id)
        self._resolve(model_id, LOADED)

    def _report_size(self, report: ReportSize) -> None:
        self._instance.registration.learn_size(report.model_id, report.units)

    def _report_failed(self, report: ReportFailed) -> None:
        self._instance.note(f"fails to load {report.model_id}: {report.reason.value}")
        if report.fresh:
            self._instance.registration.move_to_failures(report.model_id, report.message, report.reason.value)
            self._instance.world.report.loads_failed += 1
        self._resolve(
            report.model_id,
            LoadOutcome(
                loaded=False,
                reason=report.reason.value,
                message=report.message,
                retry_elsewhere=report.retry_elsewhere,
                failed=True,
            ),
        )

    def _report_refused(self, report: ReportRefused) -> None:
        self._instance.note(f"refuses {report.model_id}: {report.reason.value}")
        self._instance.world.report.refused(report.reason)
        self._resolve(
            report.model_id,
            LoadOutcome(
                loaded=False,
                reason=report.reason.value,
                message=report.message,
                retry_elsewhere=report.retry_elsewhere,
            ),
        )

    def _forget_failure(self, order: ForgetFailure) -> None:
        self._instance.registration.remove_failure(order.model_id)

    def _report_evicted(self, report: ReportEvicted) -> None:
        self._instance.note(f"evicts {report.model_id} for {report.for_model}")
        self._instance.world.report.evicted(report)

    def _report_capacity_lost(self, _report: ReportCapacityLost) -> None:
        self._instance.world.report.capacity_lost += 1

    def _wake_at(self, order: WakeAt) -> None:
        if order.time_ms not in self._wakes:
            self._wakes.add(order.time_ms)
            self._instance.after(
                max(0, self._instance.world.time_us(order.time_ms) - self._agenda.now_us),
                self._wake,
                order.time_ms,
            )

    def _wake(self, time_ms: int) -> None:
        self._wakes.discard(time_ms)
        self.read_usage()
        self.handle(Tick())

    def _resolve(self, model_id: str, outcome: LoadOutcome) -> None:
        wanted = self.wanted.pop(model_id, None)
        if wanted is not None:
            wanted.outcome.set(outcome)
