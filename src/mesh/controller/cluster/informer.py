"""Objects of a kind as they are in the cluster, kept in memory."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mesh.controller.cluster.api import Cluster, ClusterError, Object
from mesh.controller.cluster.kinds import Kind

_log = logging.getLogger(__name__)

#: Pauses between attempts where the API server does not answer, seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0

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
        self._objects: dict[str, dict[str, Object]] = {}
        # Of the latest listing, or of what the watch told last.
        self._version = ""
        self._subscribers: list[Subscriber] = []
        self.synced = asyncio.Event()

    def __iter__(self) -> Iterator[Object]:
        return itertools.chain.from_iterable([list(found.values()) for found in self._objects.values()])

    def __len__(self) -> int:
        return sum(map(len, self._objects.values()))

    def get(self, namespace: str, name: str) -> Object | None:
        """An object; None where it is not there. It must not be changed."""
        return self._objects.get(namespace, {}).get(name)

    def within(self, namespace: str) -> list[Object]:
        """All objects of a namespace."""
        return list(self._objects.get(namespace, {}).values())

    def subscribe(self, subscriber: Subscriber) -> None:
        """Has changes told from now on; it is told at once of each object that is there."""
        self._subscribers.append(subscriber)
        for found in self:
            subscriber(None, found)

    def note(self, written: Object) -> None:
        """Takes in what a write of the controller's own made, before the watch tells of it."""
        kept = self._keep(written)
        # What the watch has gone past and is not there was deleted since.
        if self.get(*key_of(kept)) is not None or _is_newer(
            kept["metadata"]["resourceVersion"], self._version
        ):
            self._put_newer(kept)

    async def run(self) -> None:
        """Follows the cluster until cancelled."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                if not self._version:
                    self._version = await self._relist()
                    self.synced.set()
                pause = _FIRST_PAUSE_S
                async for what, found in self._cluster.watch(
                    self.kind, self._version, self._namespace, self._selector
                ):
                    self._version = found["metadata"]["resourceVersion"]
                    if what == "DELETED":
                        self._put(key_of(found), None)
                    elif what != "BOOKMARK":
                        self._put_newer(self._keep(found))
            except ClusterError as problem:
                if problem.too_old:
                    self._version = ""
                    continue
                _log.warning("cannot follow %s: %s; again in %.1f s", self.kind.plural, problem, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
                if problem.status:
                    self._version = ""

    async def _relist(self) -> str:
        items, version = await self._cluster.list(self.kind, self._namespace, self._selector)
        # Objects in a listing do not say what they are.
        named = {"apiVersion": self.kind.api_version, "kind": self.kind.kind}
        there = {key_of(found): self._keep({**found, **named}) for found in items}
        for key in {key_of(found) for found in self} - there.keys():
            self._put(key, None)
        for key, found in there.items():
            self._put(key, found)
        return version

    def _put_newer(self, found: Object) -> None:
        """Takes in an object unless a newer one is known, as after a write of the controller's own."""
        before = self.get(*key_of(found))
        if before is None or _is_newer(
            found["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]
        ):
            self._put(key_of(found), found)

    def _put(self, key: Key, found: Object | None) -> None:
        namespace, name = key
        objects = self._objects.setdefault(namespace, {})
        before = objects.get(name)
        if found is None:
            if objects.pop(name, None) is None:
                return
        else:
            if (
                before is not None
                and before["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
            ):
                return
            objects[name] = found
        for subscriber in self._subscribers:
            subscriber(before, found)


def _is_newer(version: str, known: str) -> bool:
    # Versions of one kind are numbers that grow: Kubernetes lets its clients compare them.
    return int(version) > int(known or 0)
