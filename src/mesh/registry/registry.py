"""All that one instance needs of the registry, in one place."""

from mesh.registry.election import Election
from mesh.registry.keys import Keys
from mesh.registry.mirror import RELIST_SECONDS, Mirror
from mesh.registry.records import InstanceRecord, ModelRecord, VModelRecord
from mesh.registry.session import Session
from mesh.registry.store import Store


class Registry:
    """The mirrors, session and candidacy of one instance.

    Attributes:
        store: the client.
        keys: of the service.
        models: mirror of the model records.
        vmodels: mirror of the vmodel records.
        instances: mirror of the instance records, this instance's own among them.
        config: mirror of the settings that operators change while the mesh runs.
        session: holds the instance's record and candidacy.
        election: the candidacy.
    """

    store: Store
    keys: Keys
    models: Mirror[ModelRecord]
    vmodels: Mirror[VModelRecord]
    instances: Mirror[InstanceRecord]
    config: Mirror[str]
    session: Session
    election: Election

    def __init__(
        self, store: Store, keys: Keys, instance_id: str, *, relist_every: float = RELIST_SECONDS
    ) -> None:
        raise NotImplementedError

    async def start(self, timeout: float) -> None:
        """Starts mirrors and session and waits until all are ready; does not stand for election.

        Raises:
            TimeoutError: not after `timeout` seconds; the text says what stands against it.
        """

    async def publish(self, record: InstanceRecord) -> None:
        """Writes this instance's record under its session; also what makes it present.

        Raises:
            StoreUnavailable: the record is remembered and written as soon as that is possible.
        """

    async def withdraw(self) -> None:
        """Deletes this instance's record."""

    async def close(self) -> None:
        """Steps down, ends the session and with it this instance's keys, and stops the mirrors."""
