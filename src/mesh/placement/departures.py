"""Copies that go: out of the cache first, out of the runtime as soon as that is right."""

from dataclasses import dataclass

from mesh.placement import instructions as do
from mesh.placement.books import Books
from mesh.placement.entries import CopyState, Entry
from mesh.placement.timers import Due

#: How long after each look at a draining copy the next one follows; after the last it is unloaded regardless.
#: About two minutes in all, as KServe ModelMesh waits.
DRAIN_CHECKS_MS = (200, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000)

#: A failed unload is tried so often, so far apart: for a quarter of an hour, as KServe ModelMesh does.
UNLOAD_ATTEMPTS = 90
UNLOAD_RETRY_MS = 10_000


@dataclass(slots=True)
class Unload:
    """One model on its way out of the runtime. Its units stay counted until that is done.

    Attributes:
        draining: requests are still in flight; the unload has not been asked for.
        checks: looks at the draining copy so far.
        attempts: failed unloads so far.
        message: of the last failed one.
        successor: a load of the same model, which must wait.
    """

    model_id: str
    units: int
    since_ms: int
    last_used_ms: int
    why: str
    draining: bool = False
    in_flight: int = 0
    checks: int = 0
    attempts: int = 0
    message: str = ""
    successor: Entry | None = None


class Departures:
    """The models being unloaded, and those that cannot be."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._unloads: dict[str, Unload] = {}
        self._stuck: set[str] = set()

    def get(self, model_id: str) -> Unload | None:
        """Returns: the unload of a model, or None."""
        return self._unloads.get(model_id)

    def all(self) -> list[Unload]:
        """Returns: those under way."""
        return list(self._unloads.values())

    def is_stuck(self, model_id: str) -> bool:
        """Returns: whether the model's unload was given up, so that the runtime may still have it."""
        return model_id in self._stuck

    def hold_back(self, entry: Entry) -> bool:
        """Makes a load wait for the unload of the same model.

        Returns: whether there is one.
        """
        unload = self._unloads.get(entry.model_id)
        if unload is None:
            return False
        unload.successor = entry
        self._books.limit_wait(entry)
        return True

    def vanish(self, entry: Entry) -> None:
        """The runtime holds nothing of an entry that it held, or was to hold."""
        self._books.memory.vanish(entry.units)
        self._leave(entry)

    def unload(self, entry: Entry, not_before_ms: int, why: str) -> None:
        """Has an entry unloaded that no request uses."""
        self._depart(entry, why)
        self._books.out.append(do.StartUnload(entry.model_id, not_before_ms))

    def drain(self, entry: Entry, why: str) -> None:
        """Has an entry unloaded once the requests in flight have ended, or have had their time."""
        self._depart(entry, why).draining = True
        self._books.out.append(do.Deregister(entry.model_id, why, self._books.last_use(entry)))
        self._books.out.append(do.CloseCopy(entry.model_id, "", drain=True))

    def drained(self, model_id: str) -> None:
        """No request is in flight."""
        unload = self._unloads.get(model_id)
        if unload is not None and unload.draining:
            self._start(unload, self._books.now_ms)

    def busy(self, model_id: str, in_flight: int) -> None:
        """Requests are still in flight."""
        unload = self._unloads.get(model_id)
        if unload is None or not unload.draining:
            return
        unload.in_flight = in_flight
        if unload.checks < len(DRAIN_CHECKS_MS):
            check_ms = self._books.now_ms + DRAIN_CHECKS_MS[unload.checks]
            unload.checks += 1
            self._books.timers.set(check_ms, Due.DRAIN_CHECK, model_id)
        else:
            self._start(unload, self._books.now_ms)

    def check(self, model_id: str) -> None:
        """It is time to look at a draining copy again."""
        unload = self._unloads.get(model_id)
        if unload is not None and unload.draining:
            self._books.out.append(do.CloseCopy(model_id, "", drain=True))

    def finished(self, model_id: str) -> Entry | None:
        """The runtime let go of a model.

        Returns: the load that waited for that, or None.
        """
        unload = self._unloads.get(model_id)
        if unload is None or unload.draining:
            return None
        self._books.memory.unloading -= unload.units
        return self._end(unload)

    def failed(self, model_id: str, message: str) -> Entry | None:
        """The runtime did not let go of a model. It is asked again, but not for ever.

        Returns: the load that waited, where the unload was given up, or None.
        """
        unload = self._unloads.get(model_id)
        if unload is None or unload.draining:
            return None
        books = self._books
        unload.message = message
        unload.attempts += 1
        if unload.attempts < UNLOAD_ATTEMPTS:
            self._start(unload, books.now_ms + UNLOAD_RETRY_MS)
            return None
        books.memory.give_up(unload.units)
        self._stuck.add(model_id)
        books.out.append(do.ReportCapacityLost(model_id, unload.units, unload.attempts, message))
        return self._end(unload)

    def runtime_restarted(self) -> list[Entry]:
        """Nothing is held any more, not even what could not be unloaded.

        Returns: the loads that waited.
        """
        waited = []
        for unload in self.all():
            self._books.memory.unloading -= unload.units
            if (entry := self._end(unload)) is not None:
                waited.append(entry)
        self._books.memory.regain()
        self._books.room_changed = True
        self._stuck.clear()
        return waited

    def _depart(self, entry: Entry, why: str) -> Unload:
        books = self._books
        books.memory.start_unload(entry.units)
        unload = self._unloads[entry.model_id] = Unload(
            entry.model_id, entry.units, books.now_ms, entry.last_used_ms, why, in_flight=entry.in_flight
        )
        self._leave(entry)
        return unload

    def _leave(self, entry: Entry) -> None:
        books = self._books
        books.residents -= 1
        if entry.state is CopyState.LOADING:
            books.loading -= 1
            books.in_progress -= 1
        entry.state = CopyState.UNLOADING
        books.drop(entry)

    def _start(self, unload: Unload, not_before_ms: int) -> None:
        unload.draining = False
        self._books.out.append(do.StartUnload(unload.model_id, not_before_ms))

    def _end(self, unload: Unload) -> Entry | None:
        del self._unloads[unload.model_id]
        entry = unload.successor
        if entry is None or entry.gone:
            return None
        entry.space_deadline_ms = 0
        return entry
