"""Events of Kubernetes: what users are told of their objects."""

import logging
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from mesh.controller.cluster.api import Cluster, ClusterError
from mesh.controller.cluster.kinds import EVENTS

_log = logging.getLogger(__name__)
_COMPONENT = "modelmesh-controller"
#: Events of objects that have no namespace are in this one, as Kubernetes wants it.
_DEFAULT_NAMESPACE = "default"
#: Longest message that the API takes.
_LONGEST = 1024


class Recorder:
    """Writes Events. One that cannot be written is logged, and holds up nothing.

    Args:
        cluster: that has the objects.
        instance: name of this controller's pod.
    """

    def __init__(self, cluster: Cluster, instance: str) -> None:
        self._cluster = cluster
        self._instance = instance

    async def tell(
        self, about: Mapping[str, Any], kind: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """Tells of an object.

        Args:
            about: the object.
            kind: whether somebody should look.
            reason: one word.
            message: a sentence.
        """
        metadata = about["metadata"]
        namespace = metadata.get("namespace") or _DEFAULT_NAMESPACE
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name']}.{secrets.token_hex(8)}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata.get("uid", ""),
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": kind,
            "reason": reason,
            "message": message[:_LONGEST],
            "source": {"component": _COMPONENT, "host": self._instance},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._cluster.create(EVENTS, event)
        except ClusterError as problem:
            _log.warning("cannot write an Event of %s %s: %s", about["kind"], metadata["name"], problem)
