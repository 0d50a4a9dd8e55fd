"""How a simulated instance is there for the others: its session, and the record under it."""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.placement import NEVER_USED_MS, InstanceView, is_significant_change
from mesh.registry import EMPTY_CACHE, InstanceRecord, LeaseGone, RegistryError

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance

#: Two writes are at least so far apart; as in an instance.
MIN_INTERVAL_US = 100_000
#: Without a sign that something changed the record is looked at so often; as in an instance.
LOOK_INTERVAL_US = 1_000_000
#: What only grows older, such as the oldest use, is looked at so often.
AGE_INTERVAL_US = 20_000_000
#: Between two tries to write while the registry is away.
RETRY_INTERVAL_US = 1_000_000
#: A session ends so long after the last sign of life, and signs come so often; as in the registry.
SESSION_TTL_US = 25_000_000
KEEP_ALIVE_US = 5_000_000


class _State(msgspec.Struct, frozen=True, gc=False):
    """What changes of an instance's record, as `mesh.placement.PublishedInstance` names it."""

    oldest_use: int
    count: int
    capacity: int
    used: int
    loading_threads: int
    loads_in_progress: int
    request_rate: int
    shutting_down: bool
    type_rules: str = ""

    @classmethod
    def of(cls, record: InstanceRecord) -> "_State":
        return cls(
            record.oldest_use,
            record.count,
            record.capacity,
            record.used,
            record.loading_threads,
            record.loads_in_progress,
            record.request_rate,
            record.shutting_down,
        )


class Presence:
    """Publishes one simulated instance.

    Attributes:
        leaving: it hands its models over and takes no more.
        lease: of its session; 0 without one.
    """

    def __init__(self, instance: "Instance") -> None:
        self._instance = instance
        self.leaving = False
        self.lease = 0
        self._granted_us = 0
        self._written: _State | None = None
        self._written_us = 0
        self._look_us: int | None = None
        self._writing = False
        self._withdrawn = False
        self._unchanging: InstanceRecord | None = None
        self._labels = frozenset(instance.labels)
        self._requests = 0
        self._rate = 0

    def begin(self) -> None:
        """Joins the mesh."""
        self._instance.start(self._join())

    def _join(self) -> Generator[Any, Any, None]:
        yield from self._renew_lease()
        self.publish()
        self._instance.after(AGE_INTERVAL_US, self._grow_older)

    def _renew_lease(self) -> Generator[Any, Any, None]:
        while True:
            try:
                self.lease = yield from self._instance.client.grant()
            except RegistryError:
                yield RETRY_INTERVAL_US
            else:
                self._granted_us = self._instance.agenda.now_us
                return

    def last_sign_us(self) -> int:
        """When the last sign of life before now was given."""
        since_us = self._instance.agenda.now_us - self._granted_us
        return self._granted_us + since_us // KEEP_ALIVE_US * KEEP_ALIVE_US

    def return_from_silence(self) -> None:
        """The instance can reach the store again: where its session has ended, it takes a new one."""
        if self.lease and not self._instance.world.store.cluster.has_lease(self.lease):
            self._instance.start(self._rejoin())

    def _rejoin(self) -> Generator[Any, Any, None]:
        yield from self._renew_lease()
        self.publish()

    def _state(self) -> "_State":
        """What may change of the record, as it should be now."""
        told, cache = self._told, self._instance.loader.cache
        if not self._instance.loader.available:
            return _State.of(told)
        oldest_ms = cache.oldest_used_ms
        return _State(
            EMPTY_CACHE if oldest_ms == NEVER_USED_MS else oldest_ms,
            len(cache),
            cache.capacity_units,
            cache.used_units + cache.pending_units,
            cache.limits.loader_threads,
            cache.loads_in_progress,
            told.request_rate,
            told.shutting_down,
        )

    def record(self) -> InstanceRecord:
        """The record as it should be now."""
        state = self._state()
        return self._told.but(
            oldest_use=state.oldest_use,
            count=state.count,
            capacity=state.capacity,
            used=state.used,
            loading_threads=state.loading_threads,
            loads_in_progress=state.loads_in_progress,
        )

    @property
    def _told(self) -> InstanceRecord:
        """What it tells whatever its cache holds."""
        told = self._unchanging
        if told is None or (told.shutting_down, told.request_rate) != (self.leaving, self._rate):
            instance = self._instance
            told = self._unchanging = InstanceRecord(
                start_time=instance.started_ms,
                location=instance.location,
                zone=instance.zone,
                labels=instance.labels,
                actionable=True,
                oldest_use=EMPTY_CACHE,
                request_rate=self._rate,
                shutting_down=self.leaving,
                endpoint=instance.instance_id,
            )
        return told

    def candidate(self) -> InstanceView | None:
        """As a place for a model; None where it takes none."""
        if not self._instance.loader.available or self.leaving:
            return None
        instance, state = self._instance, self._state()
        return InstanceView(
            instance.instance_id,
            capacity_units=state.capacity,
            used_units=state.used,
            oldest_used_ms=state.oldest_use,
            models=state.count,
            loader_threads=state.loading_threads,
            loads_in_progress=state.loads_in_progress,
            requests_per_minute=state.request_rate,
            zone=instance.zone,
            labels=self._labels,
            start_time_ms=instance.started_ms,
        )

    def changed(self) -> None:
        """Something may have changed: look at the record soon."""
        self._look(self._written_us + MIN_INTERVAL_US)

    def _look(self, time_us: int) -> None:
        time_us = max(time_us, self._instance.agenda.now_us)
        if self._look_us is None or time_us < self._look_us:
            self._look_us = time_us
            self._instance.after(time_us - self._instance.agenda.now_us, self._look_now, time_us)

    def _look_now(self, time_us: int) -> None:
        if time_us != self._look_us:
            return
        self._look_us = None
        if self._writing or self._withdrawn or self._written is None:
            return
        current = self._state()
        since_ms = (self._instance.agenda.now_us - self._written_us) // 1_000
        if is_significant_change(self._written, current, since_ms):
            self.publish()
        elif current != self._written:
            self._look(self._instance.agenda.now_us + LOOK_INTERVAL_US)

    def _grow_older(self) -> None:
        instance = self._instance
        instance.loader.read_usage()
        requests, self._requests = instance.requests_served - self._requests, instance.requests_served
        self._rate = requests * 60_000_000 // AGE_INTERVAL_US
        self.changed()
        instance.after(AGE_INTERVAL_US, self._grow_older)

    def publish(self) -> None:
        """Writes the record now."""
        if not self._writing and not self._withdrawn:
            self._writing = True
            self._instance.start(self._write())

    def _write(self) -> Generator[Any, Any, None]:
        instance = self._instance
        while True:
            record = None if self._withdrawn else self.record()
            self._written = None if record is None else _State.of(record)
            self._written_us = instance.agenda.now_us
            try:
                yield from instance.client.put_instance(instance.instance_id, record, self.lease)
            except LeaseGone:
                yield from self._renew_lease()
            except RegistryError:
                yield RETRY_INTERVAL_US
            else:
                self._writing = False
                self.changed()
                return

    def withdraw(self) -> Generator[Any, Any, None]:
        """Takes the record out of the registry."""
        self._withdrawn = True
        try:
            yield from self._instance.client.put_instance(self._instance.instance_id, None, self.lease)
        except RegistryError:
            return


def view_of(instance_id: str, record: InstanceRecord) -> InstanceView:
    """An instance as its record shows it."""
    return InstanceView(
        instance_id,
        capacity_units=record.capacity,
        used_units=record.used,
        oldest_used_ms=record.oldest_use,
        models=record.count,
        loader_threads=record.loading_threads,
        loads_in_progress=record.loads_in_progress,
        requests_per_minute=record.request_rate,
        shutting_down=record.shutting_down,
        version=record.version,
        zone=record.zone,
        labels=frozenset(record.labels),
        start_time_ms=record.start_time,
    )
