"""Which instances are about to be replaced by newer ones, so that a model placed there would soon move again.

Kubernetes replaces the pods of a Deployment set by set: those of the new replica set come one by one while those of
the old one go. The first six characters of an instance's id are the end of its replica set's name.
"""

import re
from dataclasses import dataclass

from mesh.placement.constraints import Labels
from mesh.placement.view import InstanceView

#: Names that Kubernetes makes use no other characters, so that ids made otherwise are not taken for its own.
_OF_REPLICA_SET = re.compile(r"([bcdfghjklmnpqrstvwxz2456789]{6})-[bcdfghjklmnpqrstvwxz2456789]{5}")

#: These three are those of KServe ModelMesh. A replica set that got no instance for so long has been rolled out.
_ROLLED_OUT_MS = 20 * 60_000
#: After the newest instance's start, so long may pass until the next old one goes.
_NEXT_STEP_MS = 10 * 60_000
#: After an old replica set has lost an instance, so long may pass until it loses the next.
_STILL_SHRINKING_MS = 15 * 60_000
#: Sets whose instances began less than this apart were deployed together: none of them replaces the other.
_APART_MS = 60_000
#: What has been worked out holds for so long while no instance comes or goes.
_LOOK_AGAIN_MS = 10_000


def replica_set(instance_id: str) -> str:
    """The replica set that an instance belongs to; empty where its id does not tell."""
    found = _OF_REPLICA_SET.fullmatch(instance_id)
    return found.group(1) if found is not None else ""


@dataclass(slots=True)
class _ReplicaSet:
    """Some pods of one making.

    Attributes:
        labels: of its instances; sets of other labels are other Deployments.
        started: instance to its start, epoch milliseconds.
        newest_ms: start of the newest instance that it ever had.
        oldest_ms: start of the first one.
        shrunk_ms: when it last lost an instance; 0 where it has not.
    """

    labels: Labels
    started: dict[str, int]
    newest_ms: int
    oldest_ms: int
    shrunk_ms: int = 0


class Rollouts:
    """Follows the instances of a mesh as they come and go."""

    def __init__(self) -> None:
        self._sets: dict[tuple[str, Labels], _ReplicaSet] = {}
        self._at: dict[str, tuple[str, Labels]] = {}
        self._replaced: frozenset[str] = frozenset()
        self._valid_until_ms = 0

    def put(self, view: InstanceView, now_ms: int) -> None:
        """Takes in an instance that is there; known ones cost next to nothing."""
        name = replica_set(view.instance_id)
        if not name:
            return
        key = (name, view.labels)
        known = self._at.get(view.instance_id)
        if known == key and self._sets[key].started[view.instance_id] == view.start_time_ms:
            return
        if known is not None and known != key:
            self.remove(view.instance_id, now_ms)
        self._at[view.instance_id] = key
        found = self._sets.get(key)
        if found is None:
            found = self._sets[key] = _ReplicaSet(view.labels, {}, view.start_time_ms, view.start_time_ms)
        found.started[view.instance_id] = view.start_time_ms
        found.newest_ms = max(found.newest_ms, view.start_time_ms)
        found.oldest_ms = min(found.oldest_ms, view.start_time_ms)
        self._valid_until_ms = 0

    def remove(self, instance_id: str, now_ms: int) -> None:
        """Takes in that an instance is gone; unknown ones are fine."""
        key = self._at.pop(instance_id, None)
        if key is None:
            return
        found = self._sets[key]
        del found.started[instance_id]
        found.shrunk_ms = now_ms
        if not found.started:
            del self._sets[key]
        self._valid_until_ms = 0

    def replaced(self, now_ms: int) -> frozenset[str]:
        """The instances that are probably about to go.

        Those of a replica set of which every instance is older than every one of the newest set with the same
        labels, while that one is being rolled out.
        """
        if now_ms >= self._valid_until_ms:
            self._valid_until_ms = now_ms + _LOOK_AGAIN_MS
            self._replaced = frozenset(
                instance_id
                for one in self._sets.values()
                if self._is_going(one, now_ms)
                for instance_id in one.started
            )
        return self._replaced

    def _is_going(self, one: _ReplicaSet, now_ms: int) -> bool:
        newest = max(
            (other for other in self._sets.values() if other.labels == one.labels),
            key=lambda other: other.newest_ms,
        )
        if newest is one or newest.oldest_ms - one.newest_ms < _APART_MS:
            return False
        since_ms = now_ms - newest.newest_ms
        if since_ms >= _ROLLED_OUT_MS:
            return False
        return since_ms < _NEXT_STEP_MS or now_ms - one.shrunk_ms < _STILL_SHRINKING_MS
