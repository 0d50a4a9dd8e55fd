"""From the setting ``KV_STORE`` to a store."""

from grpc import aio

from mesh.registry.connection import MemoryConnection, parse_connection
from mesh.registry.etcd import EtcdStore
from mesh.registry.etcd_members import OpenChannel
from mesh.registry.memory import MemoryStore
from mesh.registry.store import Store


def open_store(text: str, opener: OpenChannel = aio.insecure_channel) -> Store:
    """Returns a client of the store that ``KV_STORE`` names; it connects when it is first asked something.

    Args:
        text: ``etcd:ENDPOINT,ENDPOINT[;rootPrefix=PREFIX]``, ``etcd:PATH_OF_A_JSON_FILE``, or ``memory:`` for
            an embedded store, a new one for each call.
        opener: opens plain-text channels to etcd; those with TLS are gRPC's own.

    Raises:
        InvalidConnection: the text, or the file it names, is faulty.
    """
    connection = parse_connection(text)
    return MemoryStore() if isinstance(connection, MemoryConnection) else EtcdStore(connection, opener)
