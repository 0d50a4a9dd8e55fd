"""What the whole mesh looks like, in one answer that many may look at and that costs little."""

import asyncio
import heapq
from collections.abc import Callable, Container, Iterable, Set

from mesh.instance.census import Census
from mesh.instance.errors import MeshError
from mesh.instance.peer_service import PeerService
from mesh.instance.peers import Peer, Peers
from mesh.placement import NEVER_USED_MS, UNIT_BYTES
from mesh.protos import admin_pb2, peer_pb2
from mesh.registry import InstanceRecord, Registry

#: Copies that are told of, of all instances together; more are too small to be seen on a screen.
MOST_COPIES = 2_000
#: Each instance tells of so many at least.
LEAST_COPIES_EACH = 10
MOST_DECISIONS = 50
MOST_FAILURES = 50
#: The instances are asked again after so long at the earliest, and so much later for each of them, milliseconds:
#: who looks on all the time takes no more of an instance where the mesh is large.
REFRESH_MS = 500
REFRESH_MS_EACH = 50


class Overview:
    """Asks all instances when somebody looks, and shows the answer to all who look in the next moments.

    Nothing is asked while nobody looks.

    Args:
        instance_id: of this instance.
        own: what this instance answers.
        now_ms: epoch milliseconds.
        steady_ms: a clock that nobody sets, milliseconds.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        peers: Peers,
        own: PeerService,
        census: Census,
        now_ms: Callable[[], int],
        steady_ms: Callable[[], int],
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._peers = peers
        self._own = own
        self._census = census
        self._now_ms = now_ms
        self._steady_ms = steady_ms
        self._asking: asyncio.Task[admin_pb2.OverviewReply] | None = None
        self._asked_ms = 0
        self._history = History(MOST_DECISIONS)

    async def look(self) -> admin_pb2.OverviewReply:
        """The mesh as it is, or was a moment ago; the same object to all who look until the mesh is asked anew."""
        asking, now_ms = self._asking, self._steady_ms()
        if asking is None or (asking.done() and now_ms - self._asked_ms >= self._refresh_ms):
            self._asked_ms = now_ms
            asking = self._asking = asyncio.get_running_loop().create_task(self._ask(), name="overview")
        # Who gives up spoils it for nobody else.
        return await asyncio.shield(asking)

    @property
    def _refresh_ms(self) -> int:
        return REFRESH_MS + REFRESH_MS_EACH * len(self._registry.instances)

    async def _ask(self) -> admin_pb2.OverviewReply:
        time_ms, peers = self._now_ms(), list(self._peers)
        most = max(LEAST_COPIES_EACH, MOST_COPIES // (len(peers) + 1))
        self._history.keep({self._instance_id, *(peer.instance_id for peer in peers)})
        told = await asyncio.gather(self._own_copies(most), *(self._copies_of(peer, most) for peer in peers))
        copies = [one for one in told if one is not None]
        return admin_pb2.OverviewReply(
            time_ms=time_ms,
            instances=instances_reply(self._registry, self._instance_id, {one.instance_id for one in copies}),
            copies=copies,
            decisions=self._history.newest,
            failures=self._failures(),
            models_loaded=self._census.loaded,
            models_failed=len(self._census.failed),
            refresh_ms=self._refresh_ms,
        )

    async def _own_copies(self, most: int) -> admin_pb2.InstanceCopies:
        since_ms = self._history.told_until_ms(self._instance_id)
        self._history.add(
            self._own.local_decisions("", MOST_DECISIONS, since_ms=since_ms, brief=True).decisions
        )
        return _copies(self._instance_id, self._own.local_models(most=most))

    async def _copies_of(self, peer: Peer, most: int) -> admin_pb2.InstanceCopies | None:
        since_ms = self._history.told_until_ms(peer.instance_id)
        try:
            models, decided = await asyncio.gather(
                peer.models(most=most), peer.decisions("", MOST_DECISIONS, since_ms=since_ms, brief=True)
            )
        except MeshError:
            return None
        self._history.add(decided.decisions)
        return _copies(peer.instance_id, models)

    def _failures(self) -> list[admin_pb2.FailedLoad]:
        models = self._registry.models
        failed = (
            (time_ms, model_id, instance_id)
            for model_id in self._census.failed
            for instance_id, time_ms in models[model_id].failures.items()
        )
        return [
            admin_pb2.FailedLoad(
                model_id=model_id,
                failure=admin_pb2.Failure(
                    instance_id=instance_id,
                    time_ms=time_ms,
                    message=models[model_id].failure_message(instance_id),
                ),
            )
            for time_ms, model_id, instance_id in heapq.nlargest(MOST_FAILURES, failed)
        ]


class History:
    """The newest decisions of all instances, each of which is asked only for those that it has not told yet.

    Args:
        most: decisions kept.

    Attributes:
        newest: the newest first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._told_until_ms: dict[str, int] = {}
        self.newest: list[peer_pb2.Decision] = []

    def told_until_ms(self, instance_id: str) -> int:
        """The time of the instance's last decision that is known here, epoch milliseconds; others may have the same."""
        return self._told_until_ms.get(instance_id, 0)

    def add(self, decisions: Iterable[peer_pb2.Decision]) -> None:
        """Takes decisions in, those that are known already among them."""
        # Two of one millisecond that read alike are as good as one.
        by_content = {one.SerializeToString(deterministic=True): one for one in self.newest}
        for one in decisions:
            by_content.setdefault(one.SerializeToString(deterministic=True), one)
            self._told_until_ms[one.instance_id] = max(self.told_until_ms(one.instance_id), one.time_ms)
        self.newest = heapq.nlargest(self._most, by_content.values(), key=lambda one: one.time_ms)

    def keep(self, instance_ids: Set[str]) -> None:
        """Forgets how far instances that are gone have told; what they decided stays."""
        for instance_id in self._told_until_ms.keys() - instance_ids:
            del self._told_until_ms[instance_id]


def instances_reply(
    registry: Registry, own_id: str, reachable: Container[str]
) -> admin_pb2.ListInstancesReply:
    """The instances of the mesh, as their records tell.

    Args:
        own_id: of the instance that answers.
        reachable: those that answer.
    """
    return admin_pb2.ListInstancesReply(
        instances=[
            _instance(instance_id, record, instance_id in reachable)
            for instance_id, record in sorted(registry.instances.items())
        ],
        self=own_id,
        leader=registry.election.leader or "",
        models_registered=len(registry.models),
    )


def by_model(copies: Iterable[peer_pb2.LocalCopy]) -> dict[str, peer_pb2.LocalCopy]:
    """The copies of one instance by their models."""
    found: dict[str, peer_pb2.LocalCopy] = {}
    for copy in copies:
        # A model that is loaded anew while its predecessor unloads is listed twice, the newer first.
        found.setdefault(copy.model_id, copy)
    return found


def _copies(instance_id: str, told: peer_pb2.LocalModelsReply) -> admin_pb2.InstanceCopies:
    # What failed is told of as failure, and takes no memory.
    copies = [one for one in by_model(told.copies).values() if one.state != peer_pb2.COPY_STATE_FAILED]
    return admin_pb2.InstanceCopies(
        instance_id=instance_id, copies=copies, others=told.others, others_bytes=told.others_bytes
    )


def _instance(instance_id: str, record: InstanceRecord, reachable: bool) -> admin_pb2.Instance:
    return admin_pb2.Instance(
        instance_id=instance_id,
        location=record.location,
        zone=record.zone,
        labels=record.labels,
        type_rules=record.type_rules,
        start_time_ms=record.start_time,
        capacity_bytes=record.capacity * UNIT_BYTES,
        used_bytes=record.used * UNIT_BYTES,
        models=record.count,
        loads_in_progress=record.loads_in_progress,
        loader_threads=record.loading_threads,
        requests_per_minute=record.request_rate,
        oldest_used_ms=0 if record.oldest_use == NEVER_USED_MS else record.oldest_use,
        shutting_down=record.shutting_down,
        reachable=reachable,
    )
