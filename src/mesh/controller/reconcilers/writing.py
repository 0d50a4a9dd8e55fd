"""Writes the objects that the controller makes, where they are not what they are to be."""

import logging
from collections.abc import Mapping
from typing import Any

from mesh.controller.cluster import (
    Again,
    Cluster,
    ClusterError,
    Informer,
    Object,
    covers,
    fingerprint,
    key_of,
)

_log = logging.getLogger(__name__)

#: Annotation by which the controller knows what it wrote last: members that it does not want any more are to go.
WRITTEN = "modelmesh.serving.kserve.io/written"


#: Before the API server is asked again that was not reached, seconds: it comes back for all objects at once.
_UNREACHED_S = 3.0


def again(problem: ClusterError, *, after_conflict_s: float | None = None) -> Again:
    """When to try once more what the Kubernetes API did not do.

    Args:
        problem: why it did not.
        after_conflict_s: where somebody else has changed the object; None for a pause that grows.
    """
    if problem.conflicts and after_conflict_s is not None:
        return Again("", after_conflict_s)
    return Again(str(problem), None if problem.status else _UNREACHED_S)


class Writer:
    """Applies and deletes objects of the kinds that are followed.

    Args:
        cluster: where they are.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def apply(self, informer: Informer, wanted: Mapping[str, Any]) -> Object:
        """Makes an object what it is to be; nothing is written where it is that already.

        Args:
            informer: that follows its kind.
            wanted: whole, as far as it is the controller's.

        Returns:
            The object as it is then.

        Raises:
            ClusterError: it could not be written.
        """
        metadata = wanted["metadata"]
        annotations = {**(metadata.get("annotations") or {}), WRITTEN: fingerprint(wanted)}
        marked = {**wanted, "metadata": {**metadata, "annotations": annotations}}
        live = informer.get(*key_of(wanted))
        if live is not None and covers(live, marked):
            return live
        written = await self._cluster.apply(informer.kind, marked)
        _log.info(
            "%s %s of %s written", wanted["kind"], metadata["name"], metadata.get("namespace", "the cluster")
        )
        informer.note(written)
        return written

    async def delete(self, informer: Informer, namespace: str, name: str) -> None:
        """Deletes an object that the controller made, if it is there.

        Raises:
            ClusterError: it could not be deleted.
        """
        live = informer.get(namespace, name)
        if live is None or live["metadata"].get("deletionTimestamp"):
            return
        if await self._cluster.delete(informer.kind, namespace, name):
            _log.info("%s %s of %s deleted", informer.kind.kind, name, namespace)
