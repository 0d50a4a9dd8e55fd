"""The state machine of one instance's copies and their memory."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from mesh.placement import events as ev
from mesh.placement import instructions as do
from mesh.placement.entries import CopyState, Entry, FailureNote, LoadQueue, LruOrder
from mesh.placement.limits import CacheLimits, size_text
from mesh.placement.memory import Memory
from mesh.placement.timers import Due, Timers
from mesh.placement.unloads import AFTER_CANCELLED_LOAD_MS, AFTER_FAILED_LOAD_MS, Unload
from mesh.placement.victims import EvictionPolicy, Limit, Search, find_victims
from mesh.placement.view import NEVER_USED_MS

_DEADLINE_EXCEEDED = 4
_RESOURCE_EXHAUSTED = 8

#: A copy with requests in flight is left alone for so long; a search that found too little pauses for it.
_BUSY_HOLD_MS = 100
#: Copies that may answer "busy" to one model before the search pauses.
_BUSY_ANSWERS = 16
#: Loads that cannot get room are passed over by later ones, up to this many at a time.
_BLOCKED_LOADS = 16
#: With so many copies their average is a better guess than the runtime's default, as in KServe ModelMesh.
_ENOUGH_FOR_AVERAGE = 10
#: A failure of a model used within this is forgotten after half the time; as in KServe ModelMesh.
_IN_USE_MS = 180_000
_LEARNED_SIZES = 10_000


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
        policy: what may be evicted.
    """

    def __init__(self, limits: CacheLimits, policy: EvictionPolicy | None = None) -> None:
        self.limits = limits
        self.policy = policy or EvictionPolicy()
        self._memory = Memory(limits)
        self._entries: dict[str, Entry] = {}
        self._unloads: dict[str, Unload] = {}
        #: Models whose unload was given up; the runtime may still have them.
        self._stuck: set[str] = set()
        self._lru = LruOrder()
        self._queue = LoadQueue()
        self._timers = Timers()
        #: New entries whose size is known and for which there is no room yet, by model.
        self._short_of_room: dict[str, Entry] = {}
        #: Entries that the data plane was asked to close, and why they are to go.
        self._closing: dict[str, tuple[Entry, do.EvictionReason]] = {}
        #: Entries with a loader whose memory others still hold.
        self._waiting: list[Entry] = []
        #: Queued entries whose predecessor is not unloaded yet, by model.
        self._behind_unload: dict[str, Entry] = {}
        self._learned: dict[str, int] = {}
        self._load_ids = count(1)
        self._loading = 0
        self._residents = 0
        self._in_progress = 0
        self._pending = 0
        self._excess_of = ("", do.EvictionReason.OVERSIZED)
        self._room_changed = False
        self._room_retry_ms = 0
        self._shutting_down = False
        self._now = 0
        self._out: list[do.Instruction] = []
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
            ev.RemoveRequested: self._remove_requested,
            ev.CopyClosed: self._copy_closed,
            ev.CopyBusy: self._copy_busy,
            ev.UnloadFinished: self._unload_finished,
            ev.UnloadFailed: self._unload_failed,
            ev.RuntimeLost: self._runtime_lost,
            ev.RuntimeRestarted: self._runtime_restarted,
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
        out: list[do.Instruction] = []
        self._out = out
        self._now = max(self._now, now_ms)
        self._handlers[type(event)](event)
        while (due := self._timers.pop_due(self._now)) is not None:
            self._fire(*due)
        self._start_loads()
        while self._room_changed:
            self._room_changed = False
            self._make_room()
            self._start_loads()
        if (wake_ms := self._timers.announce(self._now)) is not None:
            out.append(do.WakeAt(wake_ms))
        return out

    # What is known.

    @property
    def capacity_units(self) -> int:
        """What the cache may hold: without the unload buffer and without lost memory."""
        return self._memory.capacity

    @property
    def used_units(self) -> int:
        """What its entries hold or will hold; models being unloaded and `pending_units` not included."""
        return self._memory.used

    @property
    def pending_units(self) -> int:
        """What loads will probably need that have not been admitted yet; others should count it as used."""
        return self._pending

    @property
    def unloading_units(self) -> int:
        """Held by models that have left the cache and are not unloaded yet."""
        return self._memory.unloading

    @property
    def resident_units(self) -> int:
        """Held by models that are loaded or being loaded."""
        return self._memory.resident

    @property
    def deficit_units(self) -> int:
        """By how much the runtime is over its capacity, after a model turned out larger than predicted."""
        return self._memory.deficit

    @property
    def lost_units(self) -> int:
        """Held by models that cannot be unloaded."""
        return self._memory.lost

    @property
    def oldest_used_ms(self) -> int:
        """Last use of the oldest entry; `NEVER_USED_MS` without entries."""
        oldest = self._lru.oldest()
        return NEVER_USED_MS if oldest is None else oldest.last_used_ms

    @property
    def loads_in_progress(self) -> int:
        """Loads that were asked for and have not ended."""
        return self._in_progress

    def __len__(self) -> int:
        """Entries, failed ones included and unloading ones not."""
        return len(self._entries)

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._entries

    def copy(self, model_id: str) -> CopyView | None:
        """Returns: what is known of the model here, or None. An entry goes before a predecessor's unload."""
        if (entry := self._entries.get(model_id)) is not None:
            return _entry_view(entry)
        if (unload := self._unloads.get(model_id)) is not None:
            return _unload_view(unload)
        return None

    def copies(self) -> list[CopyView]:
        """Returns: all entries, then the models being unloaded."""
        return [
            *map(_entry_view, self._entries.values()),
            *map(_unload_view, self._unloads.values()),
        ]

    # Loads, step by step.

    def _load_requested(self, event: ev.LoadRequested) -> None:
        model_id = event.model_id
        used_ms = event.last_used_ms or self._now
        entry = self._entries.get(model_id)
        if entry is not None:
            entry.touch(used_ms)
            if not self._half_expired(entry):
                self._requested_again(entry, event.urgent)
                return
            self._forget_failure(entry)
        if self._shutting_down:
            self._report_refused(model_id, do.Refusal.SHUTTING_DOWN, "The instance is shutting down")
            return
        if model_id in self._stuck:
            self._report_refused(model_id, do.Refusal.STUCK_UNLOAD, _stuck_message(model_id))
            return
        known = self._learned.get(model_id) or event.size_hint_units
        entry = Entry(
            model_id=model_id,
            load_id=next(self._load_ids),
            last_used_ms=used_ms,
            since_ms=self._now,
            urgent=event.urgent,
            why=event.why,
            expected_units=known or self._typical_units(),
            size_known=known > 0,
        )
        if not known <= self._memory.capacity:
            self._enter(entry)
            self._fail_too_large(entry, known)
            return
        # Others' claims are left out: who is not refused here may be later, once all sizes are known.
        if entry.expected_units > self._free_after_closings() - self._pending:
            search = self._search(entry, entry.expected_units)
            if not search.victims and not search.later:
                self._report_refused(model_id, *self._refusal(entry, search))
                return
        self._enter(entry)
        self._out.append(do.Register(model_id, entry.load_id, used_ms))
        if not entry.size_known:
            self._out.append(do.PredictSize(model_id, entry.load_id))

    def _requested_again(self, entry: Entry, urgent: bool) -> None:
        if entry.state in _SERVING:
            self._out.append(do.ReportLoaded(entry.model_id, entry.units, fresh=False))
        elif entry.failure is not None:
            self._report_failed(entry, entry.failure, fresh=False)
        elif urgent and not entry.urgent:
            entry.urgent = True
            if entry.state is CopyState.QUEUED:
                self._queue.push(entry)

    def _registered(self, event: ev.Registered) -> None:
        entry = self._current(event, CopyState.NEW)
        if entry is not None:
            entry.registered = True
            self._ask_for_room(entry)

    def _registration_refused(self, event: ev.RegistrationRefused) -> None:
        entry = self._current(event, CopyState.NEW)
        if entry is not None:
            self._drop(entry)
            self._report_refused(
                entry.model_id, do.Refusal.NOT_REGISTERED, event.message, event.retry_elsewhere
            )

    def _size_predicted(self, event: ev.SizePredicted) -> None:
        entry = self._current(event, CopyState.NEW)
        if entry is None or entry.size_known:
            return
        units = self.limits.default_model if event.units is None else max(1, event.units)
        self._pending += units - entry.expected_units
        entry.expected_units = units
        entry.size_known = True
        self._ask_for_room(entry)

    def _ask_for_room(self, entry: Entry) -> None:
        if entry.registered and entry.size_known:
            if entry.expected_units > self._memory.capacity:
                self._fail_too_large(entry, entry.expected_units)
            else:
                self._short_of_room[entry.model_id] = entry
                self._room_changed = True

    def _admit(self, entry: Entry) -> None:
        del self._short_of_room[entry.model_id]
        self._pending -= entry.expected_units
        entry.units = entry.expected_units
        self._memory.used += entry.units
        entry.state = CopyState.QUEUED
        entry.space_deadline_ms = 0
        entry.queued_ms = self._now
        self._queue.push(entry)

    def _start_loads(self) -> None:
        for entry in [entry for entry in self._waiting if self._memory.has_space(entry.units)]:
            # Asked again: the one before it may have taken the space.
            if self._memory.has_space(entry.units):
                self._waiting.remove(entry)
                self._start_load(entry)
        while self._loading + len(self._waiting) < self.limits.loader_threads:
            candidate = self._queue.pop()
            if candidate is None:
                return
            if candidate.model_id in self._stuck:
                self._refuse(candidate, do.Refusal.STUCK_UNLOAD, _stuck_message(candidate.model_id))
            elif candidate.model_id in self._unloads:
                self._behind_unload[candidate.model_id] = candidate
                self._limit_wait(candidate)
            elif self._memory.has_space(candidate.units):
                self._start_load(candidate)
            else:
                candidate.state = CopyState.WAITING
                self._waiting.append(candidate)
                self._limit_wait(candidate)

    def _start_load(self, entry: Entry) -> None:
        entry.state = CopyState.LOADING
        entry.space_deadline_ms = 0
        self._loading += 1
        self._residents += 1
        self._memory.resident += entry.units
        queued_ms = self._now - entry.queued_ms
        self._out.append(
            do.StartLoad(
                entry.model_id, entry.load_id, self.limits.loading_timeout_ms, entry.units, queued_ms
            )
        )

    def _load_finished(self, event: ev.LoadFinished) -> None:
        entry = self._current(event, CopyState.LOADING)
        if entry is None:
            return
        if event.units > 0:
            self._learn(entry, event.units)
            if event.units > self._memory.capacity:
                self._fail_too_large(entry, event.units)
                return
        self._loading -= 1
        self._in_progress -= 1
        entry.loaded_ms = self._now
        entry.safe_until_ms = self._now + self.limits.just_loaded_ms
        if event.units > 0:
            entry.state = CopyState.LOADED
        else:
            entry.state = CopyState.SIZING
        self._out.append(do.ReportLoaded(entry.model_id, entry.units, fresh=True))
        if event.units <= 0:
            self._out.append(do.MeasureSize(entry.model_id, entry.load_id))

    def _size_measured(self, event: ev.SizeMeasured) -> None:
        entry = self._current(event, CopyState.SIZING)
        if entry is None:
            return
        entry.state = CopyState.LOADED
        self._room_changed = True
        if event.units is not None and event.units > 0:
            self._learn(entry, event.units)
            if entry.units > self._memory.capacity:
                self._retire(entry, self._too_large_message(entry.model_id, entry.units))

    def _learn(self, entry: Entry, units: int) -> None:
        """Counts an entry in the runtime with its real size, and remembers that for the next load."""
        self._learned.pop(entry.model_id, None)
        self._learned[entry.model_id] = units
        if len(self._learned) > _LEARNED_SIZES:
            del self._learned[next(iter(self._learned))]
        if units != entry.units:
            self._memory.resize(entry.units, units)
            entry.units = units
            self._room_changed = True
            if self._memory.free < 0:
                self._excess_of = (entry.model_id, do.EvictionReason.OVERSIZED)

    def _load_failed(self, event: ev.LoadFailed) -> None:
        entry = self._current(event, CopyState.LOADING)
        if entry is not None:
            note = FailureNote(do.Failure.RUNTIME, event.code, event.message, retry_elsewhere=True)
            self._fail(entry, note, self._now + AFTER_FAILED_LOAD_MS if event.load_started else None)

    def _load_timed_out(self, event: ev.LoadTimedOut) -> None:
        entry = self._current(event, CopyState.LOADING)
        if entry is not None:
            message = (
                f"Loading model {entry.model_id} took longer than {self.limits.loading_timeout_ms / 1000:g} s"
            )
            note = FailureNote(do.Failure.TIMEOUT, _DEADLINE_EXCEEDED, message, retry_elsewhere=True)
            self._fail(entry, note, self._now + AFTER_CANCELLED_LOAD_MS)

    def _fail_too_large(self, entry: Entry, units: int) -> None:
        message = self._too_large_message(entry.model_id, units)
        note = FailureNote(
            do.Failure.LARGER_THAN_CAPACITY, _RESOURCE_EXHAUSTED, message, retry_elsewhere=True
        )
        self._fail(entry, note, self._now)

    def _too_large_message(self, model_id: str, units: int) -> str:
        capacity = self._memory.capacity
        return (
            f"Size of model {model_id}, {units} units ({size_text(units)}), is larger than total effective "
            f"capacity, {capacity} units ({size_text(capacity)})"
        )

    def _fail(self, entry: Entry, note: FailureNote, unload_at_ms: int | None) -> None:
        """Ends a load. A reminder of one unit stays, so that the failure is told at once for a while.

        What the runtime may hold is unloaded at ``unload_at_ms``; None means that it holds nothing.
        """
        if entry.state is CopyState.LOADING:
            self._leave_runtime(entry, unload_at_ms, note.message)
        self._drop(entry)
        self._report_failed(entry, note, fresh=True)
        if self._memory.free > 0:
            reminder = Entry(
                model_id=entry.model_id,
                load_id=entry.load_id,
                last_used_ms=entry.last_used_ms,
                since_ms=self._now,
                urgent=False,
                why=entry.why,
                state=CopyState.FAILED,
                units=1,
                failure=note,
            )
            self._memory.used += 1
            self._entries[entry.model_id] = reminder
            self._lru.add(reminder)
            self._timers.set(
                self._now + self.limits.failure_expiry_ms // 2,
                Due.FAILURE_EXPIRY,
                entry.model_id,
                entry.load_id,
            )

    # Room.

    def _make_room(self) -> None:
        """Admits loads for which there is room, and has others evicted for those for which there is not."""
        if self._memory.free < 0:
            self._shed()
        blocked = 0
        free = self._free_after_closings()
        for entry in sorted(self._short_of_room.values(), key=_by_urgency):
            if entry.gone:
                continue
            if entry.expected_units > self._memory.capacity:
                self._fail_too_large(entry, entry.expected_units)
                continue
            if entry.expected_units > free:
                search = self._search(entry, entry.expected_units - free)
                if search.victims and entry.busy_answers < _BUSY_ANSWERS:
                    for victim in search.victims:
                        free += victim.units
                        self._push_out(victim, entry.model_id, do.EvictionReason.ROOM)
                elif search.victims or search.later:
                    self._limit_wait(entry)
                    self._retry_room()
                    blocked += 1
                    if blocked >= _BLOCKED_LOADS:
                        break
                    continue
                else:
                    self._refuse(entry, *self._refusal(entry, search))
                    continue
            free -= entry.expected_units
            if entry.expected_units <= self._memory.free:
                self._admit(entry)

    def _shed(self) -> None:
        """Evicts for what is over capacity, as far as copies are idle; the rest follows later."""
        shortage = -self._free_after_closings()
        if shortage > 0:
            search = self._search(None, shortage)
            if not search.victims and search.available_units > 0:
                search = self._search(None, search.available_units)
            for victim in search.victims:
                self._push_out(victim, *self._excess_of)
        self._retry_room()

    def _search(self, newcomer: Entry | None, shortage: int) -> Search:
        churn_age_ms = self.limits.min_churn_age_ms if newcomer is not None else 0
        return find_victims(
            self._lru,
            shortage,
            self._now,
            self.policy,
            newcomer=newcomer,
            churn_before_ms=self._now - churn_age_ms,
        )

    def _push_out(self, victim: Entry, for_model: str, reason: do.EvictionReason) -> None:
        if victim.state is CopyState.LOADED:
            victim.closing_for = for_model
            self._closing[victim.model_id] = (victim, reason)
            self._out.append(do.CloseCopy(victim.model_id, for_model))
        elif victim.state is CopyState.QUEUED:
            message = f"Model {for_model}, for which a request waits, needs the room"
            self._refuse(victim, do.Refusal.DISPLACED, message)
        else:
            self._drop(victim)

    def _copy_closed(self, event: ev.CopyClosed) -> None:
        closing = self._closing.get(event.model_id)
        if closing is not None:
            self._evict(*closing)
        elif (unload := self._unloads.get(event.model_id)) is not None and unload.draining:
            self._start_unload(unload, self._now)

    def _copy_busy(self, event: ev.CopyBusy) -> None:
        closing = self._closing.pop(event.model_id, None)
        if closing is not None:
            entry, _ = closing
            if (newcomer := self._short_of_room.get(entry.closing_for or "")) is not None:
                newcomer.busy_answers += 1
            entry.closing_for = None
            entry.in_flight = event.in_flight
            entry.touch(self._now)
            entry.safe_until_ms = max(entry.safe_until_ms, self._now + _BUSY_HOLD_MS)
            self._room_changed = True
        elif (unload := self._unloads.get(event.model_id)) is not None and unload.draining:
            unload.in_flight = event.in_flight
            check_ms = unload.next_check_ms(self._now)
            if check_ms is None:
                self._start_unload(unload, self._now)
            else:
                self._timers.set(check_ms, Due.DRAIN_CHECK, event.model_id)

    def _evict(self, entry: Entry, reason: do.EvictionReason) -> None:
        for_model = entry.closing_for or ""
        self._out.append(
            do.ReportEvicted(
                model_id=entry.model_id,
                for_model=for_model,
                age_ms=self._now - entry.last_used_ms,
                units=entry.units,
                reason=reason,
                loaded_for_ms=self._now - entry.loaded_ms,
            )
        )
        why = f"evicted for model {for_model}" if for_model else "evicted for lost capacity"
        self._out.append(do.Deregister(entry.model_id, why))
        self._leave_runtime(entry, self._now, why)
        self._drop(entry)

    def _refusal(self, entry: Entry, search: Search) -> tuple[do.Refusal, str]:
        needs = (
            f"Model {entry.model_id} needs {size_text(entry.expected_units)}, "
            f"{size_text(max(0, self._memory.free))} of {size_text(self._memory.capacity)} are free"
        )
        age_s = max(0, self._now - search.next_used_ms) / 1000
        if search.limit is Limit.CHURN:
            least_s = self.limits.min_churn_age_ms / 1000
            return do.Refusal.CHURN, (
                f"Cache churn threshold exceeded: {needs}, and the copy to evict next was used "
                f"{age_s:.1f} s ago, less than {least_s:g} s"
            )
        if search.limit is Limit.NEWER:
            return do.Refusal.OLDER_THAN_ALL, (
                f"{needs}, and the copy to evict next was used more recently than this model"
            )
        return do.Refusal.NO_ROOM, f"{needs}, and everything else is being loaded or in use"

    # Copies that go.

    def _remove_requested(self, event: ev.RemoveRequested) -> None:
        unregistered = event.reason is ev.RemovalReason.UNREGISTERED
        if unregistered:
            self._learned.pop(event.model_id, None)
        entry = self._entries.get(event.model_id)
        if entry is None:
            return
        why = f"removed: {event.reason.value}"
        if entry.state in _SERVING:
            self._retire(entry, why)
        elif entry.state is CopyState.FAILED:
            self._forget_failure(entry)
        else:
            if entry.state is CopyState.LOADING:
                self._out.append(do.CancelLoad(entry.model_id, entry.load_id))
                self._leave_runtime(entry, self._now + AFTER_CANCELLED_LOAD_MS, why)
            message = f"Model {entry.model_id} was removed before it was loaded: {event.reason.value}"
            self._refuse(entry, do.Refusal.REMOVED, message, retry_elsewhere=not unregistered)

    def _retire(self, entry: Entry, why: str) -> None:
        """Takes a serving copy out of the cache; requests in flight have their time to end."""
        self._out.append(do.Deregister(entry.model_id, why))
        self._leave_runtime(entry, None, why, drain=True)
        self._drop(entry)
        self._out.append(do.CloseCopy(entry.model_id, "", drain=True))

    def _leave_runtime(
        self, entry: Entry, unload_at_ms: int | None, why: str, *, drain: bool = False
    ) -> None:
        """Moves what an entry holds from the cache's account to that of unloads, or frees it.

        It is unloaded at ``unload_at_ms``, or after its requests in flight where it is to drain. Neither means
        that the runtime holds nothing.
        """
        if entry.state is CopyState.LOADING:
            self._loading -= 1
            self._in_progress -= 1
        self._residents -= 1
        self._closing.pop(entry.model_id, None)
        if unload_at_ms is None and not drain:
            self._memory.vanish(entry.units)
        else:
            self._memory.start_unload(entry.units)
            unload = Unload(
                model_id=entry.model_id,
                units=entry.units,
                since_ms=self._now,
                last_used_ms=entry.last_used_ms,
                why=why,
                draining=drain,
                in_flight=entry.in_flight,
            )
            self._unloads[entry.model_id] = unload
            if unload_at_ms is not None:
                self._start_unload(unload, unload_at_ms)
        entry.state = CopyState.UNLOADING

    def _start_unload(self, unload: Unload, not_before_ms: int) -> None:
        unload.draining = False
        self._out.append(do.StartUnload(unload.model_id, not_before_ms))

    def _unload_finished(self, event: ev.UnloadFinished) -> None:
        unload = self._unloads.get(event.model_id)
        if unload is not None and not unload.draining:
            self._memory.unloading -= unload.units
            self._end_unload(unload)

    def _unload_failed(self, event: ev.UnloadFailed) -> None:
        unload = self._unloads.get(event.model_id)
        if unload is None or unload.draining:
            return
        unload.message = event.message
        attempt_ms = unload.next_attempt_ms(self._now)
        if attempt_ms is not None:
            self._start_unload(unload, attempt_ms)
            return
        self._memory.give_up(unload.units)
        self._stuck.add(unload.model_id)
        self._excess_of = ("", do.EvictionReason.CAPACITY_LOST)
        self._room_changed = True
        self._out.append(
            do.ReportCapacityLost(unload.model_id, unload.units, unload.attempts, unload.message)
        )
        self._end_unload(unload)

    def _end_unload(self, unload: Unload) -> None:
        del self._unloads[unload.model_id]
        successor = self._behind_unload.pop(unload.model_id, None)
        if successor is not None:
            successor.space_deadline_ms = 0
            self._queue.push(successor)

    def _runtime_lost(self, event: ev.RuntimeLost) -> None:
        entry = self._entries.get(event.model_id)
        if entry is not None and entry.state in _SERVING:
            self._out.append(do.Deregister(event.model_id, "the runtime lost it"))
            self._leave_runtime(entry, None, "")
            self._drop(entry)

    def _runtime_restarted(self, _event: ev.RuntimeRestarted) -> None:
        for entry in [entry for entry in self._entries.values() if entry.state in _SERVING]:
            self._out.append(do.Deregister(entry.model_id, "the runtime restarted"))
            self._leave_runtime(entry, None, "")
            self._drop(entry)
        for unload in list(self._unloads.values()):
            self._memory.unloading -= unload.units
            self._end_unload(unload)
        self._memory.lost = 0
        self._stuck.clear()
        self._room_changed = True

    def _shutdown_started(self, _event: ev.ShutdownStarted) -> None:
        self._shutting_down = True
        for entry in [entry for entry in self._entries.values() if entry.state in _NOT_IN_RUNTIME]:
            self._refuse(entry, do.Refusal.SHUTTING_DOWN, "The instance is shutting down")

    # Use, and time.

    def _used(self, event: ev.Used) -> None:
        entry = self._entries.get(event.model_id)
        if entry is not None:
            entry.touch(event.last_used_ms)
            entry.in_flight = event.in_flight
            if event.in_flight > 0:
                entry.touch(self._now)
                entry.safe_until_ms = max(entry.safe_until_ms, self._now + _BUSY_HOLD_MS)
            elif entry.loaded_ms and event.last_used_ms >= entry.loaded_ms:
                # Those who waited for the load have found it.
                entry.safe_until_ms = min(entry.safe_until_ms, self._now)
                self._room_changed = self._room_changed or bool(self._short_of_room)
        elif (unload := self._unloads.get(event.model_id)) is not None:
            unload.in_flight = event.in_flight

    def _tick(self, _event: ev.Tick) -> None:
        """Timers are looked at after every event."""

    def _fire(self, due: Due, model_id: str, load_id: int) -> None:
        if due is Due.ROOM_RETRY:
            self._room_retry_ms = 0
            self._room_changed = True
            for waiting in self._short_of_room.values():
                waiting.busy_answers = 0
            return
        if due is Due.DRAIN_CHECK:
            unload = self._unloads.get(model_id)
            if unload is not None and unload.draining:
                self._out.append(do.CloseCopy(model_id, "", drain=True))
            return
        entry = self._entries.get(model_id)
        if entry is None or entry.load_id != load_id:
            return
        if due is Due.SPACE_DEADLINE and 0 < entry.space_deadline_ms <= self._now:
            message = (
                f"Model {model_id} got no memory within {self.limits.space_wait_ms / 1000:g} s: "
                f"{size_text(entry.expected_units)} needed, {size_text(self._memory.unloading)} still being "
                f"unloaded, {size_text(max(0, self._memory.free))} free"
            )
            self._refuse(entry, do.Refusal.SPACE_TIMEOUT, message)
        elif due is Due.FAILURE_EXPIRY and entry.state is CopyState.FAILED:
            expires_ms = entry.since_ms + self.limits.failure_expiry_ms
            if self._now >= expires_ms or self._now - entry.last_used_ms <= _IN_USE_MS:
                self._forget_failure(entry)
            else:
                self._timers.set(expires_ms, Due.FAILURE_EXPIRY, model_id, load_id)

    def _half_expired(self, entry: Entry) -> bool:
        """Returns: whether it is a failure so old that a model in use deserves another try."""
        return (
            entry.state is CopyState.FAILED
            and self._now - entry.since_ms >= self.limits.failure_expiry_ms // 2
        )

    def _forget_failure(self, entry: Entry) -> None:
        self._drop(entry)
        self._out.append(do.ForgetFailure(entry.model_id))

    # The books.

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.model_id] = entry
        self._lru.add(entry)
        self._in_progress += 1
        self._pending += entry.expected_units

    def _drop(self, entry: Entry) -> None:
        """Forgets an entry that holds nothing in the runtime, or whose part there was settled before."""
        del self._entries[entry.model_id]
        self._lru.remove(entry)
        self._room_changed = True
        if entry.state is CopyState.UNLOADING:
            return
        if entry.state is CopyState.NEW:
            self._pending -= entry.expected_units
            self._short_of_room.pop(entry.model_id, None)
        else:
            self._memory.used -= entry.units
        if entry.state is CopyState.FAILED:
            return
        self._in_progress -= 1
        if entry.state is CopyState.WAITING:
            self._waiting.remove(entry)
        self._behind_unload.pop(entry.model_id, None)

    def _refuse(self, entry: Entry, reason: do.Refusal, message: str, retry_elsewhere: bool = True) -> None:
        self._drop(entry)
        self._out.append(do.Deregister(entry.model_id, f"refused: {reason.value}"))
        self._report_refused(entry.model_id, reason, message, retry_elsewhere)

    def _report_refused(
        self, model_id: str, reason: do.Refusal, message: str, retry_elsewhere: bool = True
    ) -> None:
        self._out.append(do.ReportRefused(model_id, reason, message, retry_elsewhere))

    def _report_failed(self, entry: Entry, note: FailureNote, *, fresh: bool) -> None:
        self._out.append(
            do.ReportFailed(
                entry.model_id, note.reason, note.code, note.message, note.retry_elsewhere, fresh=fresh
            )
        )

    def _current(self, event: Any, state: CopyState) -> Entry | None:
        entry = self._entries.get(event.model_id)
        if entry is None or entry.load_id != event.load_id or entry.state is not state:
            return None
        return entry

    def _typical_units(self) -> int:
        if self._residents >= _ENOUGH_FOR_AVERAGE:
            return max(1, self._memory.resident // self._residents)
        return self.limits.default_model

    def _free_after_closings(self) -> int:
        if not self._closing:
            return self._memory.free
        return self._memory.free + sum(entry.units for entry, _ in self._closing.values())

    def _limit_wait(self, entry: Entry) -> None:
        if entry.space_deadline_ms == 0:
            entry.space_deadline_ms = self._now + self.limits.space_wait_ms
            self._timers.set(entry.space_deadline_ms, Due.SPACE_DEADLINE, entry.model_id, entry.load_id)

    def _retry_room(self) -> None:
        if self._room_retry_ms == 0:
            self._room_retry_ms = self._now + _BUSY_HOLD_MS
            self._timers.set(self._room_retry_ms, Due.ROOM_RETRY)


_SERVING = frozenset({CopyState.SIZING, CopyState.LOADED})
_NOT_IN_RUNTIME = frozenset({CopyState.NEW, CopyState.QUEUED, CopyState.WAITING})


def _by_urgency(entry: Entry) -> tuple[bool, int]:
    return (not entry.urgent, entry.load_id)


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
