"""The state machine of one instance's copies and their memory."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any

from mesh.placement import events as ev
from mesh.placement import instructions as do
from mesh.placement.books import Books
from mesh.placement.departures import Departures, Unload
from mesh.placement.entries import CopyState, Entry, FailureNote, LoadQueue
from mesh.placement.limits import CacheLimits
from mesh.placement.room import BUSY_HOLD_MS, Room
from mesh.placement.sizes import KnownSize, LearnedSizes, SizeSource
from mesh.placement.timers import Due
from mesh.placement.victims import EvictionPolicy
from mesh.placement.view import NEVER_USED_MS

_DEADLINE_EXCEEDED = 4

#: A runtime gets this long to settle after a load failed, or was cancelled, before the unload follows; as in
#: KServe ModelMesh.
_AFTER_FAILED_LOAD_MS = 1_000
_AFTER_CANCELLED_LOAD_MS = 3_000
#: With so many copies their average is a better guess than the runtime's default, as in KServe ModelMesh.
_ENOUGH_FOR_AVERAGE = 10
#: A failure of a model used within this is forgotten after half the time; as in KServe ModelMesh.
_IN_USE_MS = 180_000

_SERVING = frozenset({CopyState.SIZING, CopyState.LOADED})
_IN_QUEUE = frozenset({CopyState.QUEUED, CopyState.WAITING})
_NOT_IN_RUNTIME = frozenset({CopyState.NEW, CopyState.QUEUED, CopyState.WAITING})


@dataclass(frozen=True, slots=True)
class CopyView:
    """One copy, for people and for the peers that ask. Sizes in units of 8 KiB, times in epoch milliseconds.

    Attributes:
        since_ms: when its load was asked for; for an unloading one, when it left the cache.
        in_flight: requests as of the data plane's last report.
        why: why it is here, or why it leaves.
        message: of a failure.
    """

    model_id: str
    state: CopyState
    units: int
    last_used_ms: int
    since_ms: int
    in_flight: int = 0
    why: str = ""
    message: str = ""


class LocalCache:
    """The copies of one instance: events in, instructions out.

    Holds no clock and does nothing by itself: the shell sends what happened to `handle`, together with the
    time, and carries out what comes back, in order. An answer may be sent while instructions of the same call
    are still to be carried out. Events about models or loads that are no more are ignored.

    Args:
        limits: what it may hold.
        policy: what may be evicted, and in which order.
    """

    def __init__(self, limits: CacheLimits, policy: EvictionPolicy | None = None) -> None:
        self._books = Books(limits, policy or EvictionPolicy())
        self._departures = Departures(self._books)
        self._room = Room(self._books, self._departures)
        self._queue = LoadQueue()
        #: Entries with a loader whose memory others still hold.
        self._waiting: list[Entry] = []
        #: Real sizes of models that were here before, so that a wrong prediction is made only once.
        self._learned = LearnedSizes()
        self._load_ids = count(1)
        self._shutting_down = False
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.LoadRequested: self._load_requested,
            ev.Registered: self._registered,
            ev.RegistrationRefused: self._registration_refused,
            ev.SizePredicted: self._size_predicted,
            ev.LoadFinished: self._load_finished,
            ev.SizeMeasured: self._size_measured,
            ev.LoadFailed: self._load_failed,
            ev.LoadTimedOut: self._load_timed_out,
            ev.Used: self._used,
            ev.ProtectionChanged: self._protection_changed,
            ev.SizeDeclared: self._size_declared,
            ev.RemoveRequested: self._remove_requested,
            ev.CopyClosed: self._copy_closed,
            ev.CopyBusy: self._copy_busy,
            ev.UnloadFinished: self._unload_finished,
            ev.UnloadFailed: self._unload_failed,
            ev.RuntimeLost: self._runtime_lost,
            ev.RuntimeRestarted: self._runtime_restarted,
            ev.LimitsChanged: self._limits_changed,
            ev.ShutdownStarted: self._shutdown_started,
            ev.Tick: self._tick,
        }

    def handle(self, event: ev.Event, now_ms: int) -> list[do.Instruction]:
        """Takes one event in.

        Args:
            event: what happened.
            now_ms: epoch milliseconds; one that is less than an earlier one counts as equal to it.

        Returns:
            what is to be done, in order.
        """
        books = self._books
        books.out = out = list[do.Instruction]()
        books.now_ms = max(books.now_ms, now_ms)
        self._handlers[type(event)](event)
        timers = books.timers
        while timers.next_ms <= books.now_ms and (due := timers.pop_due(books.now_ms)) is not None:
            self._fire(*due)
        if self._queue or self._waiting:
            self._start_loads()
        while books.room_changed:
            for entry in self._room.make():
                self._queue.push(entry)
            self._start_loads()
        if timers.next_ms < inf and (wake_ms := timers.announce(books.now_ms)) is not None:
            out.append(do.WakeAt(wake_ms))
        return out

    # What is known

    @property
    def limits(self) -> CacheLimits:
        """What it may hold, as the runtime last told."""
        return self._books.limits

    @property
    def capacity_units(self) -> int:
        """What the cache may hold: without the unload buffer and without lost memory."""
        return self._books.memory.capacity

    @property
    def used_units(self) -> int:
        """What its entries hold or will hold; models being unloaded and `pending_units` not included."""
        return self._books.memory.used

    @property
    def pending_units(self) -> int:
        """What loads will probably need that have not been admitted yet; others should count it as used."""
        return self._books.pending

    @property
    def unloading_units(self) -> int:
        """Held by models that have left the cache and are not unloaded yet."""
        return self._books.memory.unloading

    @property
    def resident_units(self) -> int:
        """Held by models that are loaded or being loaded."""
        return self._books.memory.resident

    @property
    def deficit_units(self) -> int:
        """By how much the runtime is over its capacity, after a model turned out larger than predicted."""
        return self._books.memory.deficit

    @property
    def lost_units(self) -> int:
        """Held by models that cannot be unloaded."""
        return self._books.memory.lost

    @property
    def oldest_used_ms(self) -> int:
        """Last use of the oldest entry that may be evicted; `NEVER_USED_MS` without such."""
        oldest = self._books.order.oldest()
        return NEVER_USED_MS if oldest is None else oldest.last_used_ms

    @property
    def loads_running(self) -> int:
        """Loads that the runtime is at."""
        return self._books.loading

    @property
    def loads_in_progress(self) -> int:
        """Loads that were asked for and have not ended."""
        return self._books.in_progress

    def __len__(self) -> int:
        """Entries, failed ones included and unloading ones not."""
        return len(self._books.entries)

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._books.entries

    def copy(self, model_id: str) -> CopyView | None:
        """Returns: what is known of the model here, or None. An entry goes before a predecessor's unload."""
        if (entry := self._books.entries.get(model_id)) is not None:
            return _entry_view(entry)
        if (unload := self._departures.get(model_id)) is not None:
            return _unload_view(unload)
        return None

    def learned_units(self, model_id: str) -> int:
        """Returns: the size that the runtime told of a copy that is or was here; 0 where it has not."""
        return self._learned.get(model_id)

    def copies(self) -> list[CopyView]:
        """Returns: all entries, then the models being unloaded."""
        return [
            *map(_entry_view, self._books.entries.values()),
            *map(_unload_view, self._departures.all()),
        ]

    # A load, step by step

    def _load_requested(self, event: ev.LoadRequested) -> None:
        books, model_id = self._books, event.model_id
        used_ms = event.last_used_ms or books.now_ms
        entry = books.entries.get(model_id)
        if entry is not None:
            entry.touch(used_ms)
            books.order.ranking.used(entry)
            if not self._deserves_another_try(entry):
                self._requested_again(entry, event.urgent)
                return
            books.forget_failure(entry)
        if self._shutting_down:
            self._refuse_early(model_id, do.Refusal.SHUTTING_DOWN, "The instance is shutting down")
            return
        if self._departures.is_stuck(model_id):
            self._refuse_early(model_id, do.Refusal.STUCK_UNLOAD, _stuck_message(model_id))
            return
        size = KnownSize(event.size.declared, self._learned.get(model_id) or event.size.learned)
        known = size.units
        entry = Entry(
            model_id=model_id,
            load_id=next(self._load_ids),
            last_used_ms=used_ms,
            since_ms=books.now_ms,
            urgent=event.urgent,
            why=event.why,
            expected_units=known or self._typical_units(),
            size_known=known > 0,
            size_source=size.source,
        )
        if known > books.memory.capacity:
            books.enter(entry)
            books.fail(entry, books.too_large(model_id, known))
        elif (refusal := self._room.early_refusal(entry)) is not None:
            self._refuse_early(model_id, *refusal)
        else:
            books.enter(entry)
            books.out.append(do.Register(model_id, entry.load_id, used_ms))
            if not entry.size_known:
                books.out.append(do.PredictSize(model_id, entry.load_id))

    def _requested_again(self, entry: Entry, urgent: bool) -> None:
        if entry.state in _SERVING:
            self._books.out.append(do.ReportLoaded(entry.model_id, entry.units, fresh=False))
        elif entry.failure is not None:
            self._books.tell_failure(entry.model_id, entry.failure, fresh=False)
        elif urgent and not entry.urgent:
            entry.urgent = True
            self._room.changed_otherwise()
            if entry.state is CopyState.QUEUED:
                self._queue.push(entry)

    def _refuse_early(self, model_id: str, reason: do.Refusal, message: str) -> None:
        self._books.out.append(do.ReportRefused(model_id, reason, message, retry_elsewhere=True))

    def _registered(self, event: ev.Registered) -> None:
        entry = self._current(event, CopyState.NEW)
        if entry is not None:
            entry.registered = True
            self._ask_for_room(entry)

    def _registration_refused(self, event: ev.RegistrationRefused) -> None:
        entry = self._current(event, CopyState.NEW)
        if entry is not None:
            reason = do.Refusal.ENOUGH_COPIES if event.enough_copies else do.Refusal.NOT_REGISTERED
            self._books.drop(entry)
            self._books.out.append(
                do.ReportRefused(entry.model_id, reason, event.message, event.retry_elsewhere)
            )

    def _size_predicted(self, event: ev.SizePredicted) -> None:
        entry = self._current(event, CopyState.NEW)
        if entry is not None and not entry.size_known:
            if event.units is None:
                units = self.limits.default_model
            else:
                units, entry.size_source = max(1, event.units), SizeSource.PREDICTED
            self._books.pending += units - entry.expected_units
            entry.expected_units = units
            entry.size_known = True
            self._ask_for_room(entry)

    def _ask_for_room(self, entry: Entry) -> None:
        if entry.registered and entry.size_known:
            self._room.ask(entry)

    def _start_loads(self) -> None:
        books = self._books
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for entry in waiting:
                if entry.gone:
                    continue
                if books.memory.has_space(entry.units):
                    self._start_load(entry)
                else:
                    self._waiting.append(entry)
        while books.loading + len(self._waiting) < self.limits.loader_threads:
            candidate = self._queue.pop()
            if candidate is None:
                return
            if self._departures.is_stuck(candidate.model_id):
                message = _stuck_message(candidate.model_id)
                books.refuse(candidate, do.Refusal.STUCK_UNLOAD, message)
            elif self._departures.hold_back(candidate):
                continue
            elif books.memory.has_space(candidate.units):
                self._start_load(candidate)
            else:
                candidate.state = CopyState.WAITING
                self._waiting.append(candidate)
                books.limit_wait(candidate)

    def _start_load(self, entry: Entry) -> None:
        books = self._books
        entry.state = CopyState.LOADING
        entry.started_ms = books.now_ms
        entry.space_deadline_ms = 0
        books.loading += 1
        books.residents += 1
        books.memory.resident += entry.units
        queued_ms = books.now_ms - entry.queued_ms
        timeout_ms = self.limits.loading_timeout_ms
        books.out.append(do.StartLoad(entry.model_id, entry.load_id, timeout_ms, entry.units, queued_ms))

    def _load_finished(self, event: ev.LoadFinished) -> None:
        entry = self._current(event, CopyState.LOADING)
        if entry is None:
            return
        books = self._books
        if event.units > 0:
            self._learn(entry, event.units)
            if entry.units > books.memory.capacity:
                note = books.too_large(entry.model_id, entry.units)
                self._fail_load(entry, note, books.now_ms)
                return
        books.loading -= 1
        books.in_progress -= 1
        entry.loaded_ms = books.now_ms
        entry.load_ms = event.load_ms or books.now_ms - entry.started_ms
        entry.safe_until_ms = books.now_ms + self.limits.just_loaded_ms
        entry.state = CopyState.LOADED if event.units > 0 else CopyState.SIZING
        books.out.append(do.ReportLoaded(entry.model_id, entry.units, fresh=True))
        if entry.state is CopyState.SIZING:
            books.out.append(do.MeasureSize(entry.model_id, entry.load_id))
        else:
            self._may_go(entry)

    def _size_measured(self, event: ev.SizeMeasured) -> None:
        entry = self._current(event, CopyState.SIZING)
        if entry is None:
            return
        entry.state = CopyState.LOADED
        self._books.room_changed = True
        if event.units is not None and event.units > 0:
            self._learn(entry, event.units)
            if entry.units > self._books.memory.capacity:
                why = self._books.too_large(entry.model_id, entry.units).message
                self._departures.drain(entry, why)
                return
        self._may_go(entry)

    def _may_go(self, entry: Entry) -> None:
        """All is known of an entry that its place among those to be evicted depends on."""
        self._books.order.ranking.loaded(entry)
        self._books.order.add(entry)

    def _learn(self, entry: Entry, units: int) -> None:
        """Counts an entry in the runtime with its real size, and remembers that for the next load.

        A size that the model's owner has declared stands: who declares one knows what the runtime cannot tell.
        """
        self._learned.learn(entry.model_id, units)
        self._books.out.append(do.ReportSize(entry.model_id, entry.units, units, entry.size_source))
        if units != entry.units and entry.size_source is not SizeSource.DECLARED:
            self._books.memory.resize(entry.units, units)
            entry.units = units
            self._room.over(entry.model_id, do.EvictionReason.OVERSIZED)

    def _size_declared(self, event: ev.SizeDeclared) -> None:
        books, entry = self._books, self._books.entries.get(event.model_id)
        if entry is None or entry.failure is not None:
            return
        learned = self._learned.get(event.model_id)
        if event.units > 0:
            units, entry.size_source = event.units, SizeSource.DECLARED
        elif entry.size_source is SizeSource.DECLARED:
            units = learned or entry.units or entry.expected_units
            entry.size_source = SizeSource.LEARNED if learned else SizeSource.DEFAULT
        else:
            return
        if entry.state is CopyState.NEW:
            books.pending += units - entry.expected_units
            entry.expected_units = units
            if not entry.size_known:
                entry.size_known = True
                self._ask_for_room(entry)
        elif entry.state in _IN_QUEUE:
            books.memory.used += units - entry.units
            entry.units = units
        else:
            books.memory.resize(entry.units, units)
            entry.units = units
            if units > books.memory.capacity and entry.state is CopyState.LOADED:
                self._departures.drain(entry, books.too_large(entry.model_id, units).message)
            elif entry.closing_for is None:
                books.order.add(entry)
        self._room.over(entry.model_id, do.EvictionReason.OVERSIZED)

    def _load_failed(self, event: ev.LoadFailed) -> None:
        entry = self._current(event, CopyState.LOADING)
        if entry is not None:
            note = FailureNote(do.Failure.RUNTIME, event.code, event.message, retry_elsewhere=True)
            unload_ms = self._books.now_ms + _AFTER_FAILED_LOAD_MS if event.load_started else None
            self._fail_load(entry, note, unload_ms)

    def _load_timed_out(self, event: ev.LoadTimedOut) -> None:
        entry = self._current(event, CopyState.LOADING)
        if entry is not None:
            timeout_s = self.limits.loading_timeout_ms / 1000
            message = f"Loading model {entry.model_id} took longer than {timeout_s:g} s"
            note = FailureNote(do.Failure.TIMEOUT, _DEADLINE_EXCEEDED, message, retry_elsewhere=True)
            self._fail_load(entry, note, self._books.now_ms + _AFTER_CANCELLED_LOAD_MS)

    def _fail_load(self, entry: Entry, note: FailureNote, unload_ms: int | None) -> None:
        """Ends a load that had begun; the runtime holds nothing of it where ``unload_ms`` is None."""
        if unload_ms is None:
            self._departures.vanish(entry)
        else:
            self._departures.unload(entry, unload_ms, note.message)
        self._books.fail(entry, note)

    # Copies that go

    def _copy_closed(self, event: ev.CopyClosed) -> None:
        if not self._room.closed(event.model_id):
            self._departures.drained(event.model_id)

    def _copy_busy(self, event: ev.CopyBusy) -> None:
        if not self._room.busy(event.model_id, event.in_flight):
            self._departures.busy(event.model_id, event.in_flight)

    def _remove_requested(self, event: ev.RemoveRequested) -> None:
        books = self._books
        unregistered = event.reason is ev.RemovalReason.UNREGISTERED
        if unregistered:
            self._learned.forget(event.model_id)
        entry = books.entries.get(event.model_id)
        if entry is None:
            return
        why = f"removed: {event.reason.value}"
        if entry.state in _SERVING:
            self._departures.drain(entry, why)
        elif entry.state is CopyState.FAILED:
            books.forget_failure(entry)
        else:
            message = f"Model {entry.model_id} was removed before it was loaded: {event.reason.value}"
            if entry.state is CopyState.LOADING:
                books.out.append(do.CancelLoad(entry.model_id, entry.load_id))
                self._departures.unload(entry, books.now_ms + _AFTER_CANCELLED_LOAD_MS, why)
            else:
                books.drop(entry)
            books.out.append(do.Deregister(entry.model_id, why))
            books.out.append(
                do.ReportRefused(
                    entry.model_id, do.Refusal.REMOVED, message, retry_elsewhere=not unregistered
                )
            )

    def _unload_finished(self, event: ev.UnloadFinished) -> None:
        successor = self._departures.finished(event.model_id)
        if successor is not None:
            self._queue.push(successor)

    def _unload_failed(self, event: ev.UnloadFailed) -> None:
        successor = self._departures.failed(event.model_id, event.message)
        if successor is not None:
            self._queue.push(successor)
        self._room.over("", do.EvictionReason.CAPACITY_LOST)

    def _runtime_lost(self, event: ev.RuntimeLost) -> None:
        entry = self._books.entries.get(event.model_id)
        if entry is None or entry.state not in _SERVING or 0 < event.asked_ms < entry.loaded_ms:
            return
        self._lose(entry, "the runtime lost it")

    def _runtime_restarted(self, _event: ev.RuntimeRestarted) -> None:
        for entry in [entry for entry in self._books.entries.values() if entry.state in _SERVING]:
            self._lose(entry, "the runtime restarted")
        for successor in self._departures.runtime_restarted():
            self._queue.push(successor)

    def _limits_changed(self, event: ev.LimitsChanged) -> None:
        self._books.limits = event.limits
        self._books.memory.set_limits(event.limits)
        self._room.over("", do.EvictionReason.CAPACITY_CHANGED)

    def _lose(self, entry: Entry, why: str) -> None:
        self._books.out.append(do.Deregister(entry.model_id, why, self._books.last_use(entry)))
        self._departures.vanish(entry)

    def _shutdown_started(self, _event: ev.ShutdownStarted) -> None:
        self._shutting_down = True
        for entry in [entry for entry in self._books.entries.values() if entry.state in _NOT_IN_RUNTIME]:
            self._books.refuse(entry, do.Refusal.SHUTTING_DOWN, "The instance is shutting down")

    # Use, and time

    def _used(self, event: ev.Used) -> None:
        entry = self._books.entries.get(event.model_id)
        if entry is not None:
            entry.touch(event.last_used_ms)
            entry.note_in_flight(event.in_flight, self._books.now_ms, BUSY_HOLD_MS)
            self._books.order.ranking.used(entry)
            if event.in_flight == 0 and entry.served(event.last_used_ms, self._books.now_ms):
                self._room.retry()
        elif (unload := self._departures.get(event.model_id)) is not None:
            unload.in_flight = event.in_flight

    def _protection_changed(self, event: ev.ProtectionChanged) -> None:
        self._books.protect(event.model_id, event.priority, pinned=event.pinned)

    def _tick(self, _event: ev.Tick) -> None:
        """Timers are looked at after every event."""

    def _fire(self, due: Due, model_id: str, load_id: int) -> None:
        if due is Due.ROOM_RETRY:
            self._room.look_again()
        elif due is Due.DRAIN_CHECK:
            self._departures.check(model_id)
        else:
            entry = self._books.entries.get(model_id)
            if entry is None and due is Due.FAILURE_EXPIRY:
                # Its reminder had to make room, or found none; the record has the failure still.
                self._books.out.append(do.ForgetFailure(model_id))
            if entry is None or entry.load_id != load_id:
                return
            if due is Due.SPACE_DEADLINE:
                self._books.check_wait(entry)
            elif entry.state is CopyState.FAILED:
                self._check_failure(entry)

    def _check_failure(self, entry: Entry) -> None:
        books = self._books
        expires_ms = entry.since_ms + self._failure_lifetime_ms(entry)
        if books.now_ms >= expires_ms or books.now_ms - entry.last_used_ms <= _IN_USE_MS:
            books.forget_failure(entry)
        else:
            books.timers.set(expires_ms, Due.FAILURE_EXPIRY, entry.model_id, entry.load_id)

    def _deserves_another_try(self, entry: Entry) -> bool:
        """Returns: whether it is a failure so old that a model in use is tried again."""
        age_ms = self._books.now_ms - entry.since_ms
        return entry.state is CopyState.FAILED and age_ms >= self._failure_lifetime_ms(entry) // 2

    def _failure_lifetime_ms(self, entry: Entry) -> int:
        return self.limits.failure_lifetime_ms(entry.failure.code if entry.failure else 0)

    def _current(self, event: Any, state: CopyState) -> Entry | None:
        entry = self._books.entries.get(event.model_id)
        if entry is None or entry.load_id != event.load_id or entry.state is not state:
            return None
        return entry

    def _typical_units(self) -> int:
        books = self._books
        if books.residents >= _ENOUGH_FOR_AVERAGE:
            return max(1, books.memory.resident // books.residents)
        return self.limits.default_model


def _stuck_message(model_id: str) -> str:
    return f"Prior unload of model {model_id} failed unrecoverably"


def _entry_view(entry: Entry) -> CopyView:
    return CopyView(
        model_id=entry.model_id,
        state=entry.state,
        units=entry.units or entry.expected_units,
        last_used_ms=entry.last_used_ms,
        since_ms=entry.since_ms,
        in_flight=entry.in_flight,
        why=entry.why,
        message=entry.failure.message if entry.failure is not None else "",
    )


def _unload_view(unload: Unload) -> CopyView:
    return CopyView(
        model_id=unload.model_id,
        state=CopyState.UNLOADING,
        units=unload.units,
        last_used_ms=unload.last_used_ms,
        since_ms=unload.since_ms,
        in_flight=unload.in_flight,
        why=unload.why,
        message=unload.message,
    )
