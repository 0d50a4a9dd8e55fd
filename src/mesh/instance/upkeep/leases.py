"""Instance records that no session holds: they would stay for ever, and be taken for instances."""

import logging

from mesh.instance.peers import Peers
from mesh.registry import Delete, Registry

log = logging.getLogger(__name__)


class LeaselessInstances:
    """Deletes records of instances that have no lease and do not answer: from a backup, or written by hand."""

    def __init__(self, instance_id: str, registry: Registry, peers: Peers) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._peers = peers

    async def run(self) -> None:
        """Looks once.

        Raises:
            RegistryError: the registry is away.
        """
        store, prefix = self._registry.store, self._registry.keys.instances
        for entry in (await store.list(prefix)).entries:
            instance_id = entry.key.removeprefix(prefix)
            if entry.lease or instance_id == self._instance_id:
                continue
            peer = self._peers.get(instance_id)
            if peer is not None and await peer.answers():
                continue
            outcome = await store.transact({entry.key: entry.mod_revision}, [Delete(entry.key)])
            if outcome.committed:
                log.warning("deleted the record of an instance without a session: %s", instance_id)
