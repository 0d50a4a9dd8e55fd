"""All that one instance needs of the registry, in one place."""

import asyncio
import logging

from mesh.registry.codecs import INSTANCES, MODELS, TEXT, VMODELS
from mesh.registry.election import Election
from mesh.registry.errors import RegistryError
from mesh.registry.keys import Keys
from mesh.registry.mirror import RELIST_SECONDS, Mirror
from mesh.registry.records import InstanceRecord
from mesh.registry.session import KEEP_ALIVE_SECONDS, TTL_SECONDS, Session
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

    Attributes:
        store: the client.
        keys: of the service.
        models: mirror of the model records.
        vmodels: mirror of the vmodel records.
        instances: mirror of the instance records, this instance's own among them.
        config: mirror of the settings that operators change while the mesh runs.
        session: holds the instance's record and candidacy.
        election: the candidacy; stand for it with ``election.stand()``.
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
        self.instances.subscribe(self._on_instance)

    async def start(self, timeout: float) -> None:
        """Starts mirrors and session and waits until all are ready; does not stand for election.

        Raises:
            TimeoutError: not after `timeout` seconds; the text says what stands against it. Then `close`.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        mirrors: list[Mirror[object]] = [self.models, self.vmodels, self.instances, self.config]  # type: ignore[list-item]
        for mirror in mirrors:
            mirror.start()
        self.session.start()
        self.election.start()
        for mirror in mirrors:
            await mirror.wait_ready(max(0.0, deadline - asyncio.get_running_loop().time()))
        await self.session.wait_live(max(0.0, deadline - asyncio.get_running_loop().time()))

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
        for mirror in (self.models, self.vmodels, self.instances, self.config):
            await mirror.close()

    def _on_instance(self, instance_id: str, _: InstanceRecord | None, after: InstanceRecord | None) -> None:
        if after is None and instance_id == self._instance_id and self._published:
            self.session.restore(self._instance_key)
