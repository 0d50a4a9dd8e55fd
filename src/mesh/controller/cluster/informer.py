"""Objects of a kind as they are in the cluster, kept in memory."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mesh.controller.cluster.api import Cluster, ClusterError, Object
from mesh.controller.cluster.kinds import Kind

_log = logging.getLogger(__name__)

#: Pauses between attempts where the API server does not answer, seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0

Key = tuple[str, str]
#: Told of a change: the object before, and after; None where it was not, or is not any more.
Subscriber = Callable[[Object | None, Object | None], None]


def key_of(found: Mapping[str, Any]) -> Key:
    """Namespace ("" where there is none) and name of an object."""
    metadata = found["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Informer:
    """Lists a kind, then watches it, and lists again where the watch cannot go on.

    Args:
        cluster: that has the objects.
        kind: of the objects.
        namespace: of the objects; "" for all.
        selector: labels that they must have.
        keep: what of an object is kept; the controller looks at few members of most kinds.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        *,
        namespace: str = "",
        selector: str = "",
        keep: Callable[[Object], Object] = lambda found: found,
    ) -> None:
        self._cluster = cluster
        self.kind = kind
        self._namespace = namespace
        self._selector = selector
        self._keep = keep
        self._objects: dict[Key, Object] = {}
        self._subscribers: list[Subscriber] = []
        self.synced = asyncio.Event()

    def __iter__(self) -> Iterator[Object]:
        return iter(tuple(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str, name: str) -> Object | None:
        """An object; None where it is not there. It must not be changed."""
        return self._objects.get((namespace, name))

    def within(self, namespace: str) -> list[Object]:
        """All objects of a namespace."""
        return [found for (where, _), found in self._objects.items() if where == namespace]

    def subscribe(self, subscriber: Subscriber) -> None:
        """Has changes told from now on; it is told at once of each object that is there."""
        self._subscribers.append(subscriber)
        for found in tuple(self._objects.values()):
            subscriber(None, found)

    def note(self, written: Object) -> None:
        """Takes in what a write of the controller's own made, before the watch tells of it."""
        kept = self._keep(written)
        key = key_of(kept)
        known = self._objects.get(key)
        if known is None or int(known["metadata"]["resourceVersion"]) < int(
            kept["metadata"]["resourceVersion"]
        ):
            self._put(key, kept)

    async def run(self) -> None:
        """Follows the cluster until cancelled."""
        pause = _FIRST_PAUSE_S
        version = ""
        while True:
            try:
                if not version:
                    version = await self._relist()
                    self.synced.set()
                pause = _FIRST_PAUSE_S
                async for what, found in self._cluster.watch(
                    self.kind, version, self._namespace, self._selector
                ):
                    version = found["metadata"]["resourceVersion"]
                    if what != "BOOKMARK":
                        kept = self._keep(found)
                        self._put(key_of(kept), None if what == "DELETED" else kept)
            except ClusterError as problem:
                if problem.too_old:
                    version = ""
                    continue
                _log.warning("cannot follow %s: %s; again in %.1f s", self.kind.plural, problem, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                if problem.status:
                    version = ""

    async def _relist(self) -> str:
        items, version = await self._cluster.list(self.kind, self._namespace, self._selector)
        # Objects in a listing do not say what they are.
        named = {"apiVersion": self.kind.api_version, "kind": self.kind.kind}
        there = {key_of(found): self._keep({**found, **named}) for found in items}
        for key in self._objects.keys() - there.keys():
            self._put(key, None)
        for key, found in there.items():
            self._put(key, found)
        return version

    def _put(self, key: Key, found: Object | None) -> None:
        before = self._objects.get(key)
        if found is None:
            if self._objects.pop(key, None) is None:
                return
        else:
            if (
                before is not None
                and before["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
            ):
                return
            self._objects[key] = found
        for subscriber in self._subscribers:
            subscriber(before, found)
