"""The registry of a simulated mesh: one real in-process store, and each instance's late view of it.

A thousand mirrors of a million records would not fit; here every version of a record is kept once, for as long as
some instance may still see it, and an instance's mirror is the time up to which it has seen changes, with what it has
learned of its own writes and reads beyond that.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, Generic, TypeVar

from mesh.registry import (
    INSTANCES,
    KEEP,
    MODELS,
    Codec,
    CopyRefused,
    Delete,
    InstanceRecord,
    Keep,
    Keys,
    LeaseGone,
    MemoryCluster,
    ModelRecord,
    OutcomeUnknown,
    Put,
    RegistryError,
    StoreUnavailable,
)
from mesh.simulation.agenda import Agenda, Signal

R = TypeVar("R")

#: A write's deadline, as the registry's clients have it.
WRITE_TIMEOUT_US = 3_500_000
#: A store that is down refuses connections; the client tries for a moment.
REFUSED_US = 200_000


class Version(Generic[R]):
    """A record as it was from one moment on; None where it did not exist."""

    __slots__ = ("at_us", "prior", "record", "revision")

    def __init__(self, record: R | None, revision: int, at_us: int, prior: "Version[R] | None") -> None:
        self.record = record
        self.revision = revision
        self.at_us = at_us
        self.prior = prior


#: Is told of each change of a record: its id, the record before and after.
OnChange = Callable[[str, R | None, R | None], None]


class Records(Generic[R]):
    """The versions of all records under one prefix."""

    def __init__(self, prefix: str, codec: Codec[R]) -> None:
        self.prefix = prefix
        self.codec = codec
        self.newest: dict[str, Version[R]] = {}
        self.on_change: OnChange[R] = lambda _id, _before, _after: None
        self._changed: deque[tuple[int, str]] = deque()

    def current(self, record_id: str) -> R | None:
        """The record as the store has it now."""
        version = self.newest.get(record_id)
        return None if version is None else version.record

    def items(self) -> Iterator[tuple[str, R]]:
        """All records as the store has them now."""
        for record_id, version in self.newest.items():
            if version.record is not None:
                yield record_id, version.record

    def commit(
        self, record_id: str, record: R | None, revision: int, now_us: int, keep_since_us: int
    ) -> None:
        """Takes a change in, and forgets versions that nobody can see any more."""
        before = self.newest.get(record_id)
        self.newest[record_id] = Version(record, revision, now_us, before)
        changed = self._changed
        changed.append((now_us, record_id))
        while changed and changed[0][0] < keep_since_us:
            _, old_id = changed.popleft()
            version = self.newest.get(old_id)
            while version is not None and version.at_us > keep_since_us:
                version = version.prior
            if version is not None:
                version.prior = None
                if version.record is None and self.newest[old_id] is version:
                    del self.newest[old_id]
        self.on_change(record_id, before.record if before is not None else None, record)


class SharedStore:
    """A `MemoryCluster` that a simulated mesh shares.

    Args:
        agenda: simulated time.
        latency_us: of a round trip.
        lag_us: how late the last instance sees a change.

    Attributes:
        cluster: the real store; it decides what is committed.
        frozen_us: up to when instances have seen changes whose watch stands still.
        writes: committed so far.
    """

    def __init__(self, agenda: Agenda, latency_us: int, lag_us: int) -> None:
        self._agenda = agenda
        self._lag_us = lag_us
        self.cluster = MemoryCluster(history=1)
        self.latency_us = latency_us
        self.writes = 0
        keys = Keys("simulated")
        self.models: Records[ModelRecord] = Records(keys.models, MODELS)
        self.instances: Records[InstanceRecord] = Records(keys.instances, INSTANCES)
        self.frozen_us: dict[StoreClient, int] = {}

    @property
    def keep_since_us(self) -> int:
        """Changes after this may not have been seen by everybody."""
        return min(self._agenda.now_us - self._lag_us, *self.frozen_us.values(), self._agenda.now_us)

    def transact(
        self, records: Records[R], record_id: str, expected: int | None, record: R | None, lease: int = 0
    ) -> bool:
        """Writes one record, as a store does.

        Args:
            expected: the revision that it must have, None for any.

        Returns: whether it was written.

        Raises:
            RegistryError: what `MemoryCluster.transact` raises.
        """
        key = records.prefix + record_id
        operation = Delete(key) if record is None else Put(key, records.codec.encode(record), lease)
        before = self.cluster.revision
        try:
            outcome = self.cluster.transact({} if expected is None else {key: expected}, [operation])
        except OutcomeUnknown:
            self._committed(records, record_id, record, before)
            raise
        if outcome.committed:
            self._committed(records, record_id, record, before)
        return outcome.committed

    def _committed(self, records: Records[R], record_id: str, record: R | None, before: int) -> None:
        if self.cluster.revision != before:
            self.writes += 1
            records.commit(record_id, record, self.cluster.revision, self._agenda.now_us, self.keep_since_us)

    def expire(self, lease: int, instance_id: str) -> None:
        """Ends an instance's lease, and with it its record."""
        before = self.cluster.revision
        self.cluster.expire(lease)
        if self.instances.current(instance_id) is not None and self.cluster.revision != before:
            self.instances.commit(
                instance_id, None, self.cluster.revision, self._agenda.now_us, self.keep_since_us
            )


class StoreClient:
    """One instance's connection to the store, and what it has seen.

    Attributes:
        cut_off: nothing comes through in either direction.
        frozen_us: up to when it has seen changes, while its watch stands still; None while it follows.
    """

    def __init__(self, store: SharedStore, agenda: Agenda, lag_us: int) -> None:
        self.store = store
        self._agenda = agenda
        self.lag_us = lag_us
        self.cut_off = False
        self.frozen_us: int | None = None
        #: Ids of models with the newest revision that a write or read of its own has shown.
        self._learned: dict[str, int] = {}

    @property
    def seen_us(self) -> int:
        """Changes up to here have been delivered."""
        return self._agenda.now_us - self.lag_us if self.frozen_us is None else self.frozen_us

    def model(self, model_id: str) -> ModelRecord | None:
        """The model's record as this instance knows it."""
        version = self._version(model_id)
        return None if version is None else version.record

    def _version(self, model_id: str) -> Version[ModelRecord] | None:
        version = self.store.models.newest.get(model_id)
        if version is None or version.at_us <= (seen_us := self.seen_us):
            return version
        known = self._learned.get(model_id, 0)
        while version is not None and version.at_us > seen_us and version.revision > known:
            version = version.prior
        return version

    def learn(self, model_id: str) -> None:
        """The store has just told how the record is now."""
        version = self.store.models.newest.get(model_id)
        if version is None:
            return
        if len(self._learned) > 256:
            seen_us = self.seen_us
            newest = self.store.models.newest
            self._learned = {
                known_id: revision
                for known_id, revision in self._learned.items()
                if (held := newest.get(known_id)) is not None and held.at_us > seen_us
            }
        self._learned[model_id] = version.revision

    def update_model(
        self, model_id: str, change: Callable[[ModelRecord | None], ModelRecord | Keep | None]
    ) -> Generator[Any, Any, None]:
        """Changes a model's record by compare-and-swap, as `Mirror.update` does.

        Raises:
            StoreUnavailable, OutcomeUnknown: the store did not answer in time.
            CopyRefused: by the change, of what the store has confirmed.
        """
        deadline_us = self._agenda.now_us + WRITE_TIMEOUT_US
        fresh = False
        while True:
            version = self._version(model_id)
            record = version.record if version is not None else None
            try:
                wanted = change(record)
            except CopyRefused:
                if fresh:
                    raise
                yield from self.fetch_model(model_id, deadline_us)
                fresh = True
                continue
            if wanted is KEEP or wanted == record:
                if record is not None or fresh:
                    return
                yield from self.fetch_model(model_id, deadline_us)
                fresh = True
                continue
            expected = version.revision if version is not None and record is not None else 0
            write = partial(self.store.transact, self.store.models, model_id, expected, wanted)
            try:
                committed = yield from self._round_trip(write, deadline_us)
            except OutcomeUnknown as unknown:
                # Finds out what the write has left behind, as an update does.
                if self._agenda.now_us >= deadline_us:
                    raise
                try:
                    found = yield from self.fetch_model(model_id, deadline_us)
                except StoreUnavailable:
                    raise unknown from None
                committed = found == wanted
            self.learn(model_id)
            if committed:
                return
            fresh = True
            if self._agenda.now_us >= deadline_us:
                raise StoreUnavailable(f"{model_id} kept changing under an update")

    def fetch_model(
        self, model_id: str, deadline_us: int | None = None
    ) -> Generator[Any, Any, ModelRecord | None]:
        """Reads the record from the store itself.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        record: ModelRecord | None = yield from self._round_trip(
            lambda: self._read(model_id), deadline_us or self._agenda.now_us + WRITE_TIMEOUT_US
        )
        return record

    def _read(self, model_id: str) -> ModelRecord | None:
        self.learn(model_id)
        return self.store.models.current(model_id)

    def put_instance(
        self, instance_id: str, record: InstanceRecord | None, lease: int
    ) -> Generator[Any, Any, None]:
        """Writes the instance's own record under its lease, or deletes it.

        Raises:
            LeaseGone: the lease has ended.
            StoreUnavailable, OutcomeUnknown: the store did not answer in time.
        """
        yield from self._round_trip(
            lambda: self.store.transact(self.store.instances, instance_id, None, record, lease),
            self._agenda.now_us + WRITE_TIMEOUT_US,
        )

    def grant(self) -> Generator[Any, Any, int]:
        """Gets a lease.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        lease: int = yield from self._round_trip(
            self.store.cluster.grant, self._agenda.now_us + WRITE_TIMEOUT_US
        )
        return lease

    def _round_trip(self, action: Callable[[], Any], deadline_us: int) -> Generator[Any, Any, Any]:
        answer = Signal()
        half_us = self.store.latency_us // 2
        self._agenda.after(half_us, self._arrive, action, answer, deadline_us, half_us)
        result = yield answer
        if isinstance(result, RegistryError):
            raise result
        return result

    def _arrive(self, action: Callable[[], Any], answer: Signal, deadline_us: int, half_us: int) -> None:
        agenda = self._agenda
        if self.cut_off:
            agenda.at(deadline_us, answer.set, StoreUnavailable("the store does not answer"))
            return
        if self.store.cluster.stopped:
            agenda.after(REFUSED_US, answer.set, StoreUnavailable("the store is down"))
            return
        try:
            result = action()
        except (OutcomeUnknown, LeaseGone) as error:
            result = error
        agenda.after(half_us, self._answer, answer, result, deadline_us)

    def _answer(self, answer: Signal, result: Any, deadline_us: int) -> None:
        if self.cut_off:
            self._agenda.at(deadline_us, answer.set, OutcomeUnknown("the store's answer was lost"))
        else:
            answer.set(result)
