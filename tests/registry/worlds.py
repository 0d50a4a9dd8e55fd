"""A store to test against, with the faults that can befall it: in memory, or a real etcd."""

import asyncio
import base64
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable

from mesh.registry import Delete, MemoryCluster, Put, Store
from tests.servers.etcd import EtcdServer

Connect = Callable[[str], Store]
"""Opens the store that a ``KV_STORE`` names."""


class World(ABC):
    """One store, its clients and its faults."""

    def __init__(self) -> None:
        self.clients: list[Store] = []

    def client(self) -> Store:
        store = self.new_client()
        self.clients.append(store)
        return store

    @abstractmethod
    def new_client(self) -> Store: ...
    @abstractmethod
    def stop(self) -> None: ...
    @abstractmethod
    def start(self) -> None: ...
    @abstractmethod
    def compact(self, revision: int) -> None: ...

    @abstractmethod
    def apply(self, operation: Put | Delete) -> int:
        """Changes a key while no client gets a chance to run, and returns the revision."""

    @abstractmethod
    def forget_everything(self) -> None:
        """Sets the stopped store back to the beginning."""

    async def expire(self, lease: int) -> None:
        await self.client().revoke(lease)

    async def close(self) -> None:
        for store in self.clients:
            await store.close()


class MemoryWorld(World):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = MemoryCluster()

    def new_client(self) -> Store:
        return self.cluster.client()

    def stop(self) -> None:
        self.cluster.stop()

    def start(self) -> None:
        self.cluster.start()

    def compact(self, revision: int) -> None:
        self.cluster.compact(revision)

    def apply(self, operation: Put | Delete) -> int:
        return self.cluster.transact({}, [operation]).revision

    def forget_everything(self) -> None:
        fresh = vars(MemoryCluster())
        fresh["_watchers"] = self.cluster._watchers
        vars(self.cluster).update(fresh)
        self.cluster.stop()


class EtcdWorld(World):
    """A root prefix of its own in an etcd that other tests use before and after."""

    def __init__(self, server: EtcdServer, connect: Connect) -> None:
        super().__init__()
        self.server = server
        self.connect = connect
        self.root = f"world-{uuid.uuid4().hex[:8]}"

    def new_client(self) -> Store:
        return self.connect(f"{self.server.kv_store};rootPrefix={self.root}")

    async def close(self) -> None:
        await super().close()
        if not self.server.process.running:
            self.server.start()

    def stop(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()

    def compact(self, revision: int) -> None:
        self.server.compact(revision)

    def forget_everything(self) -> None:
        shutil.rmtree(self.server.folder / "data")

    def apply(self, operation: Put | Delete) -> int:
        if isinstance(operation, Put):
            return self.server.put(self.root + operation.key, operation.value.decode())
        key = base64.b64encode((self.root + operation.key).encode()).decode()
        return int(self.server._call("kv/deleterange", key=key)["header"]["revision"])


async def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until something becomes true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
