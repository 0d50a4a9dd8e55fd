"""What the parts of a cache share: its entries, their sums, and what is to be done."""

from mesh.placement import instructions as do
from mesh.placement.entries import CopyState, Entry, FailureNote
from mesh.placement.limits import CacheLimits, size_text
from mesh.placement.memory import Memory
from mesh.placement.timers import Due, Timers
from mesh.placement.victims import EvictionOrder, EvictionPolicy

_RESOURCE_EXHAUSTED = 8


class Books:
    """Entries enter and leave here, so that the sums always agree with them.

    Attributes:
        order: in which entries would be evicted.
        out: instructions of the event being handled.
        now_ms: its time.
        loading: loads that run.
        residents: entries that the runtime holds.
        in_progress: loads that were asked for and have not ended.
        pending: units expected of entries that have not been admitted.
        room_changed: there may be room, or victims, that were not there before.
    """

    def __init__(self, limits: CacheLimits, policy: EvictionPolicy) -> None:
        self.limits = limits
        self.memory = Memory(limits)
        self.entries: dict[str, Entry] = {}
        self.order = EvictionOrder(policy)
        #: Priority of the models that have one, and whether they are pinned.
        self._protection: dict[str, tuple[int, bool]] = {}
        self.timers = Timers()
        self.out: list[do.Instruction] = []
        self.now_ms = 0
        self.loading = 0
        self.residents = 0
        self.in_progress = 0
        self.pending = 0
        self.room_changed = False

    def enter(self, entry: Entry) -> None:
        """A load begins its way."""
        self._file(entry)
        self.in_progress += 1
        self.pending += entry.expected_units

    def drop(self, entry: Entry) -> None:
        """Forgets an entry that holds nothing in the runtime, or whose part there was settled before."""
        del self.entries[entry.model_id]
        entry.gone = True
        self.order.discard(entry)
        self.room_changed = True
        match entry.state:
            case CopyState.UNLOADING:
                pass
            case CopyState.FAILED:
                self.memory.used -= entry.units
            case CopyState.NEW:
                self.in_progress -= 1
                self.pending -= entry.expected_units
            case _:
                self.in_progress -= 1
                self.memory.used -= entry.units

    def refuse(self, entry: Entry, reason: do.Refusal, message: str, *, retry_elsewhere: bool = True) -> None:
        """Ends a load that was registered, without recording a failure."""
        self.drop(entry)
        self.out.append(do.Deregister(entry.model_id, f"refused: {reason.value}"))
        self.out.append(do.ReportRefused(entry.model_id, reason, message, retry_elsewhere))

    def fail(self, entry: Entry, note: FailureNote) -> None:
        """Ends a load; what the runtime held of it is settled already.

        A reminder of one unit stays where there is room, so that the failure is told at once for a while. The
        record is to forget the failure in time also where no reminder stays.
        """
        if not entry.gone:
            self.drop(entry)
        self.tell_failure(entry.model_id, note, fresh=True)
        half_ms = self.now_ms + self.limits.failure_lifetime_ms(note.code) // 2
        self.timers.set(half_ms, Due.FAILURE_EXPIRY, entry.model_id, entry.load_id)
        if self.memory.free <= 0:
            return
        reminder = Entry(
            model_id=entry.model_id,
            load_id=entry.load_id,
            last_used_ms=entry.last_used_ms,
            since_ms=self.now_ms,
            urgent=False,
            why=entry.why,
            state=CopyState.FAILED,
            units=1,
            failure=note,
        )
        self.memory.used += 1
        self._file(reminder)

    def protect(self, model_id: str, priority: int, *, pinned: bool) -> None:
        """Takes note of how far a model is kept from being evicted, here or not."""
        if priority or pinned:
            self._protection[model_id] = (priority, pinned)
        else:
            self._protection.pop(model_id, None)
        entry = self.entries.get(model_id)
        if entry is not None and entry.closing_for is None:
            self._file(entry)
            self.room_changed = True

    def _file(self, entry: Entry) -> None:
        self.entries[entry.model_id] = entry
        priority, pinned = self._protection.get(entry.model_id, (0, False))
        entry.priority, entry.pinned = priority, pinned and entry.failure is None
        self.order.add(entry)

    def last_use(self, entry: Entry) -> int:
        """Returns: when a copy was used last. One that was added for load counts as used in a moment to come."""
        return min(entry.last_used_ms, self.now_ms)

    def tell_failure(self, model_id: str, note: FailureNote, *, fresh: bool) -> None:
        """Reports a failure, new or remembered."""
        self.out.append(
            do.ReportFailed(model_id, note.reason, note.code, note.message, note.retry_elsewhere, fresh)
        )

    def forget_failure(self, entry: Entry) -> None:
        """Ends the reminder of a failure."""
        self.drop(entry)
        self.out.append(do.ForgetFailure(entry.model_id))

    def too_large(self, model_id: str, units: int) -> FailureNote:
        """Returns: the failure of a model larger than all that the cache may hold."""
        capacity = self.memory.capacity
        message = (
            f"Size of model {model_id}, {units} units ({size_text(units)}), is larger than total effective "
            f"capacity, {capacity} units ({size_text(capacity)})"
        )
        return FailureNote(
            do.Failure.LARGER_THAN_CAPACITY, _RESOURCE_EXHAUSTED, message, retry_elsewhere=True
        )

    def limit_wait(self, entry: Entry) -> None:
        """From now on the entry waits for memory, for so long as the limits say."""
        if entry.space_deadline_ms == 0:
            entry.space_deadline_ms = self.now_ms + self.limits.space_wait_ms
            self.timers.set(entry.space_deadline_ms, Due.SPACE_DEADLINE, entry.model_id, entry.load_id)

    def check_wait(self, entry: Entry) -> None:
        """Refuses the entry where it has waited for memory too long."""
        if 0 < entry.space_deadline_ms <= self.now_ms:
            message = (
                f"Model {entry.model_id} got no memory within {self.limits.space_wait_ms / 1000:g} s: "
                f"{size_text(entry.expected_units)} needed, {size_text(self.memory.unloading)} still being "
                f"unloaded, {size_text(max(0, self.memory.free))} free"
            )
            self.refuse(entry, do.Refusal.SPACE_TIMEOUT, message)
