"""All that one instance needs of the registry, in one place."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

from mesh.registry.codecs import INSTANCES, MODELS, TEXT, VMODELS
from mesh.registry.election import Election
from mesh.registry.errors import RegistryError
from mesh.registry.keys import Keys
from mesh.registry.mirror import RELIST_SECONDS, Mirror
from mesh.registry.records import InstanceRecord
from mesh.registry.session import KEEP_ALIVE_SECONDS, TTL_SECONDS, Session, SessionState
from mesh.registry.snapshot import InvalidSnapshot, Snapshot, SnapshotFile
from mesh.registry.store import WRITE_TIMEOUT, Store

log = logging.getLogger(__name__)


class Registry:
    """The mirrors, session and candidacy of one instance.

    Args:
        store: the client; it stays the caller's to close.
        keys: of the service.
        instance_id: this instance.
        relist_every: seconds between two listings that repair differences.
        session_ttl: seconds after which this instance is gone when it falls silent.
        keep_alive_every: seconds between two of its signs of life.
        snapshot: file that remembers the records for a start without the store; None for none.

    Attributes:
        store: the client.
        keys: of the service.
        models: mirror of the model records.
        vmodels: mirror of the vmodel records.
        instances: mirror of the instance records, this instance's own among them.
        config: mirror of the settings that operators change while the mesh runs.
        session: holds the instance's record and candidacy.
        election: the candidacy; stand for it with ``election.stand()``.
        snapshot: remembers the records; None where nothing does.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        instance_id: str,
        *,
        relist_every: float = RELIST_SECONDS,
        session_ttl: float = TTL_SECONDS,
        keep_alive_every: float = KEEP_ALIVE_SECONDS,
        snapshot: Path | None = None,
    ) -> None:
        self.store = store
        self.keys = keys
        self.models = Mirror(store, keys.models, MODELS, relist_every=relist_every)
        self.vmodels = Mirror(store, keys.vmodels, VMODELS, relist_every=relist_every)
        self.instances = Mirror(store, keys.instances, INSTANCES, relist_every=relist_every)
        self.config = Mirror(store, keys.config, TEXT, relist_every=relist_every)
        self.session = Session(store, ttl=session_ttl, keep_alive_every=keep_alive_every)
        self.election = Election(store, self.session, keys, instance_id)
        self._instance_id = instance_id
        self._instance_key = keys.instances + instance_id
        self._published = False
        self._joined = asyncio.Event()
        self._remembering = False
        self._mirrors: tuple[Mirror[Any], ...] = (self.models, self.vmodels, self.instances, self.config)
        self.snapshot = None if snapshot is None else SnapshotFile(snapshot, self._mirrors)
        self.instances.subscribe(self._on_instance)
        self.session.subscribe(lambda _: self._look_whether_joined())
        for mirror in self._mirrors:
            mirror.on_listed(self._look_whether_joined)
        if self.snapshot is not None:
            for remembered in (self.models, self.vmodels, self.config):
                remembered.subscribe(self._on_record)

    async def start(self, timeout: float, *, remember_after: float | None = None) -> None:
        """Starts mirrors and session and waits until all are ready; does not stand for election.

        Args:
            timeout: seconds.
            remember_after: where there is a usable snapshot, the store is awaited only so long, seconds; then the
                mirrors show what the snapshot remembers, and the instance joins when the store is there.

        Raises:
            TimeoutError: not after `timeout` seconds; the text says what stands against it. Then `close`.
        """
        remembered = None if remember_after is None else self._read_snapshot()
        for mirror in self._mirrors:
            mirror.start()
        self.session.start()
        self.election.start()
        if remembered is None or remember_after is None:
            await self._wait_joined(timeout)
            return
        try:
            await self._wait_joined(remember_after)
        except TimeoutError as error:
            age_s = time.time() - remembered.taken_ms / 1_000
            log.error(
                "starting without the registry, from a snapshot that is %.0f s old; joining once it is there: %s",
                age_s,
                error,
            )
            self._remembering = True
            for mirror in self._mirrors:
                mirror.restore(remembered.tables[mirror.prefix])

    @property
    def joined(self) -> bool:
        """Whether this instance has ever had a live session and complete mirrors; else it goes by a snapshot."""
        return self._joined.is_set()

    async def wait_joined(self) -> None:
        """Waits until this instance has joined."""
        await self._joined.wait()

    def _look_whether_joined(self) -> None:
        if self.joined or self.session.state is not SessionState.LIVE:
            return
        if all(mirror.ready for mirror in self._mirrors):
            self._joined.set()
            if self._remembering:
                log.info("joined the registry, which the snapshot stood in for")

    def _read_snapshot(self) -> Snapshot | None:
        if self.snapshot is None:
            return None
        try:
            return self.snapshot.read()
        except FileNotFoundError:
            return None
        except InvalidSnapshot as error:
            log.warning("the snapshot is of no use: %s", error)
            return None

    async def _wait_joined(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        for mirror in self._mirrors:
            await mirror.wait_ready(max(0.0, deadline - loop.time()))
        await self.session.wait_live(max(0.0, deadline - loop.time()))

    async def publish(self, record: InstanceRecord, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Writes this instance's record under its session; this is also what makes it present.

        Raises:
            StoreUnavailable, OutcomeUnknown, StoreDenied: the record is remembered and written as soon as
                that is possible.
        """
        self._published = True
        await self.session.put(self._instance_key, INSTANCES.encode(record), timeout=timeout)

    async def withdraw(self, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Deletes this instance's record.

        Raises:
            StoreUnavailable, OutcomeUnknown, StoreDenied: the record goes with the session then.
        """
        self._published = False
        await self.session.delete(self._instance_key, timeout=timeout)

    async def close(self) -> None:
        """Steps down, ends the session and with it this instance's keys, and stops the mirrors."""
        self._published = False
        try:
            await self.election.close()
        except RegistryError as error:
            log.warning("the candidacy is left to the end of the session: %s", error)
        await self.session.close()
        for mirror in self._mirrors:
            await mirror.close()

    def _on_record(self, _id: str, _before: object, _after: object) -> None:
        assert self.snapshot is not None  # noqa: S101 - subscribed only where there is one
        self.snapshot.changed()

    def _on_instance(
        self, instance_id: str, before: InstanceRecord | None, after: InstanceRecord | None
    ) -> None:
        # How full an instance is changes all the time and is not worth remembering.
        moved = before is None or after is None or before.endpoint != after.endpoint
        if moved and self.snapshot is not None:
            self.snapshot.changed()
        if after is None and instance_id == self._instance_id and self._published:
            self.session.restore(self._instance_key)
