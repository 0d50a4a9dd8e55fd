"""Room for loads: who gets in, and who has to go for that."""

from mesh.placement import instructions as do
from mesh.placement.books import Books
from mesh.placement.departures import Departures
from mesh.placement.entries import CopyState, Entry
from mesh.placement.limits import size_text
from mesh.placement.timers import Due
from mesh.placement.victims import Limit, Search, find_victims

#: A copy with requests in flight is left alone for so long; a search that found too little pauses for it.
BUSY_HOLD_MS = 100
#: After so long it searches again also where there is no hope: what it waits for may be out of reach by now, since
#: copies were used, and then the load is to be refused soon.
_PATIENCE_MS = 500
#: More than any model lacks.
_ANY_UNITS = 2**63
#: Copies that may answer "busy" before all searching pauses.
_BUSY_ANSWERS = 16
#: With so many copies being closed, further loads wait for the answers.
_CLOSINGS = 16


class Room:
    """Admits loads for which there is room, and has copies evicted for those for which there is not."""

    def __init__(self, books: Books, departures: Departures) -> None:
        self._books = books
        self._departures = departures
        #: Registered entries of known size that have not been admitted, in the order in which they came.
        self._asking: list[Entry] = []
        #: Entries that the data plane was asked to close, and why they are to go.
        self._closing: dict[str, tuple[Entry, do.EvictionReason]] = {}
        self._excess_of = ("", do.EvictionReason.OVERSIZED)
        self._retry_ms = 0
        self._busy_answers = 0
        #: What a load may lack at most, after a search has shown that no more is to be had for now.
        self._within_reach = _ANY_UNITS
        #: No sooner is more to be had than that search has shown, unless something else changes.
        self._hope_ms = 0

    def ask(self, entry: Entry) -> None:
        """Has room made for an entry when `make` is next called."""
        self._asking.append(entry)
        self._books.room_changed = True

    def over(self, model_id: str, reason: do.EvictionReason) -> None:
        """More may be used than there is: `make` is to evict for that, and to say that it is for this."""
        self._books.room_changed = True
        self._within_reach = _ANY_UNITS
        if self._books.memory.free < 0:
            self._excess_of = (model_id, reason)

    def early_refusal(self, entry: Entry) -> tuple[do.Refusal, str] | None:
        """Tells why room could not be made for an entry, before anything is done for it; None where it may be.

        Of what others claim no more counts than the entry's own size: who is not refused here may be later, when
        all sizes are known.
        """
        shortage = entry.expected_units - self._free_after_closings() + self._books.pending
        if 0 < shortage <= self._within_reach:
            search = self._search(entry, min(shortage, entry.expected_units))
            if not search.victims and not search.later:
                return self._refusal(entry, search)
        return None

    def make(self) -> list[Entry]:
        """Looks who gets in now.

        Returns: the entries admitted, more urgent ones first.
        """
        books, memory = self._books, self._books.memory
        books.room_changed = False
        hopes_ms: list[int] = []
        if memory.free < 0:
            hopes_ms.append(0)
            self._shed()
        admitted = []
        free = self._free_after_closings()
        self._asking = sorted((entry for entry in self._asking if not entry.gone), key=_by_urgency)
        for entry in self._asking:
            if entry.expected_units > memory.capacity:
                books.fail(entry, books.too_large(entry.model_id, entry.expected_units))
                continue
            shortage = entry.expected_units - free
            if shortage > 0:
                if shortage > self._within_reach or len(self._closing) >= _CLOSINGS:
                    continue
                search = self._search(entry, shortage)
                if search.victims and self._busy_answers < _BUSY_ANSWERS:
                    for victim in search.victims:
                        free += victim.units
                        self._push_out(victim, entry.model_id, do.EvictionReason.ROOM)
                elif search.victims or search.later:
                    self._within_reach = 0 if search.victims else search.available_units
                    hopes_ms.append(search.hope_ms)
                    continue
                else:
                    books.refuse(entry, *self._refusal(entry, search))
                    continue
            free -= entry.expected_units
            if entry.expected_units <= memory.free:
                self._admit(entry)
                admitted.append(entry)
        self._asking = [entry for entry in self._asking if not entry.gone and entry.state is CopyState.NEW]
        # What is loaded from now on is safe for a while.
        patience_ms = min(_PATIENCE_MS, books.limits.just_loaded_ms)
        self._hope_ms = min(*hopes_ms, books.now_ms + patience_ms) if hopes_ms else 0
        if self._within_reach != _ANY_UNITS:
            self._retry_later()
            for entry in self._asking:
                books.limit_wait(entry)
        return admitted

    def look_again(self) -> None:
        """It is time to see whether copies that were busy still are."""
        self._retry_ms = 0
        if self._books.now_ms < self._hope_ms:
            self._retry_later()
        else:
            self.retry()

    def changed_otherwise(self) -> None:
        """An entry is not what it was when it was last looked at, though there is no more room for that."""
        self._hope_ms = 0

    def retry(self) -> None:
        """Copies that were busy may not be any more."""
        self._retry_ms = 0
        self._busy_answers = 0
        self._within_reach = _ANY_UNITS
        self._books.room_changed = True

    def closed(self, model_id: str) -> bool:
        """The data plane has taken a copy out of service.

        Returns: whether it had been asked to for an eviction.
        """
        entry, reason = self._closing.pop(model_id, (None, None))
        if entry is None or reason is None or entry.gone:
            return False
        self._within_reach = _ANY_UNITS
        books, for_model = self._books, entry.closing_for or ""
        books.out.append(
            do.ReportEvicted(
                model_id=model_id,
                for_model=for_model,
                age_ms=books.now_ms - entry.last_used_ms,
                units=entry.units,
                reason=reason,
                loaded_for_ms=books.now_ms - entry.loaded_ms,
                why=books.order.ranking.evicted(entry),
            )
        )
        why = f"evicted for model {for_model}" if for_model else "evicted for lost capacity"
        books.out.append(do.Deregister(model_id, why, books.last_use(entry)))
        self._departures.unload(entry, books.now_ms, why)
        return True

    def busy(self, model_id: str, in_flight: int) -> bool:
        """A copy has requests in flight: it stays, and another one must go.

        Returns: whether it had been asked to close for an eviction.
        """
        entry, _ = self._closing.pop(model_id, (None, None))
        if entry is None or entry.gone:
            return False
        self._busy_answers += 1
        entry.closing_for = None
        entry.note_in_flight(in_flight, self._books.now_ms, BUSY_HOLD_MS)
        self._books.order.add(entry)
        self._books.room_changed = True
        return True

    def _admit(self, entry: Entry) -> None:
        books = self._books
        books.pending -= entry.expected_units
        entry.units = entry.expected_units
        books.memory.used += entry.units
        entry.state = CopyState.QUEUED
        entry.space_deadline_ms = 0
        entry.queued_ms = books.now_ms

    def _shed(self) -> None:
        """Evicts for what is over capacity, as far as copies are idle; the rest follows later."""
        shortage = -self._free_after_closings()
        if shortage > 0:
            search = self._search(None, shortage)
            if not search.victims and search.available_units > 0:
                search = self._search(None, search.available_units)
            for victim in search.victims:
                self._push_out(victim, *self._excess_of)
        self._retry_later()

    def _search(self, newcomer: Entry | None, shortage: int) -> Search:
        now_ms = self._books.now_ms
        churn_age_ms = self._books.limits.min_churn_age_ms if newcomer is not None else 0
        return find_victims(
            self._books.order,
            shortage,
            now_ms,
            newcomer=newcomer,
            churn_before_ms=now_ms - churn_age_ms,
        )

    def _push_out(self, victim: Entry, for_model: str, reason: do.EvictionReason) -> None:
        books = self._books
        if victim.state is CopyState.LOADED:
            victim.closing_for = for_model
            books.order.discard(victim)
            self._closing[victim.model_id] = (victim, reason)
            books.out.append(do.CloseCopy(victim.model_id, for_model))
        elif victim.state is CopyState.QUEUED:
            message = f"Model {for_model}, for which a request waits, needs the room"
            books.refuse(victim, do.Refusal.DISPLACED, message)
        else:
            books.drop(victim)

    def _refusal(self, entry: Entry, search: Search) -> tuple[do.Refusal, str]:
        memory, limits = self._books.memory, self._books.limits
        needs = (
            f"Model {entry.model_id} needs {size_text(entry.expected_units)}, "
            f"{size_text(max(0, memory.free))} of {size_text(memory.capacity)} are free"
        )
        if search.limit is Limit.CHURN:
            age_s = max(0, self._books.now_ms - search.next_used_ms) / 1000
            return do.Refusal.CHURN, (
                f"Cache churn threshold exceeded: {needs}, and the copy to evict next was used "
                f"{age_s:.1f} s ago, less than {limits.min_churn_age_ms / 1000:g} s"
            )
        if search.limit is Limit.NEWER:
            return do.Refusal.OLDER_THAN_ALL, (
                f"{needs}, and the copy to evict next was used more recently than this model"
            )
        return do.Refusal.NO_ROOM, f"{needs}, and everything else is being loaded or in use"

    def _free_after_closings(self) -> int:
        if not self._closing:
            return self._books.memory.free
        return self._books.memory.free + sum(
            entry.units for entry, _ in self._closing.values() if not entry.gone
        )

    def _retry_later(self) -> None:
        if self._retry_ms == 0:
            self._retry_ms = self._books.now_ms + BUSY_HOLD_MS
            self._books.timers.set(self._retry_ms, Due.ROOM_RETRY)


def _by_urgency(entry: Entry) -> tuple[bool, int]:
    return (not entry.urgent, entry.load_id)
