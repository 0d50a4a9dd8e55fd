"""What this instance answers to ``mesh models``, ``status``, ``explain`` and ``top``, on behalf of the whole mesh."""

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from mesh.instance.calls import Rpc, service
from mesh.instance.copies import Policies
from mesh.instance.errors import MeshError, invalid
from mesh.instance.overview import Overview, by_model, instances_reply
from mesh.instance.peer_service import PeerService
from mesh.instance.peers import Peer, Peers
from mesh.instance.sizing import known_size
from mesh.placement import DEFAULT_POLICY, UNIT_BYTES, CopyPolicy
from mesh.protos import admin_pb2, peer_pb2
from mesh.registry import ModelRecord, Registry

#: Models in one page where the caller does not say.
DEFAULT_PAGE = 1_000
#: Decisions where the caller does not say how many.
DEFAULT_DECISIONS = 50
#: Instances are asked about the models of a page; of a larger one, about all their models, which is less to say.
MOST_NAMED = 100

_LocalCopies = dict[str, peer_pb2.LocalCopy]


SERVICE = "mesh.admin.v1.Admin"


class AdminService:
    """The rpcs of ``mesh.admin.v1.Admin``. What an instance knows of its own copies is asked of it directly."""

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        peers: Peers,
        own: PeerService,
        policies: Policies,
        overview: Overview,
    ) -> None:
        self._overview = overview
        self._policies = policies
        self._instance_id = instance_id
        self._registry = registry
        self._peers = peers
        self._own = own

    def rpcs(self) -> dict[str, Rpc]:
        """The methods by their full names."""
        return service(
            SERVICE,
            {
                "ListModels": Rpc(self.list_models, admin_pb2.ListModelsRequest),
                "DescribeModel": Rpc(self.describe_model, admin_pb2.DescribeModelRequest),
                "ListInstances": Rpc(self._list_instances, admin_pb2.ListInstancesRequest),
                "Explain": Rpc(self.explain, admin_pb2.ExplainRequest),
                "Overview": Rpc(self.overview, admin_pb2.OverviewRequest),
                "SetPolicy": Rpc(self._set_policy, admin_pb2.SetPolicyRequest),
            },
        )

    async def overview(self, _: admin_pb2.OverviewRequest) -> admin_pb2.OverviewReply:
        """What the mesh looks like now."""
        return await self._overview.look()

    async def list_models(self, request: admin_pb2.ListModelsRequest) -> admin_pb2.ListModelsReply:
        """Models in order of their ids, page by page."""
        limit = request.limit or DEFAULT_PAGE
        models = self._registry.models
        contained = request.contains.casefold()
        ids = (
            model_id
            for model_id in models
            if model_id > request.after
            and model_id.startswith(request.prefix)
            and (not request.loaded_only or models[model_id].copies)
            and (not contained or contained in model_id.casefold())
        )
        page = heapq.nsmallest(limit + 1, ids)
        copies = await self._copies_everywhere(page if len(page) <= MOST_NAMED else ()) if page else {}
        reply = admin_pb2.ListModelsReply(
            models=[
                self._model(model_id, models[model_id], copies)
                for model_id in page[:limit]
                if model_id in models
            ],
            total=len(models),
        )
        if len(page) > limit:
            reply.next = page[limit - 1]
        return reply

    async def describe_model(self, request: admin_pb2.DescribeModelRequest) -> admin_pb2.DescribeModelReply:
        """One model with its copies."""
        record = self._registry.models.get(request.model_id)
        if record is None:
            return admin_pb2.DescribeModelReply(found=False)
        copies = await self._copies_everywhere((request.model_id,))
        return admin_pb2.DescribeModelReply(found=True, model=self._model(request.model_id, record, copies))

    async def _list_instances(self, _: admin_pb2.ListInstancesRequest) -> admin_pb2.ListInstancesReply:
        peers = list(self._peers)
        answered = await asyncio.gather(*(peer.answers() for peer in peers))
        reachable = {peer.instance_id for peer, answers in zip(peers, answered, strict=True) if answers}
        reachable.add(self._instance_id)
        return instances_reply(self._registry, self._instance_id, reachable)

    async def explain(self, request: admin_pb2.ExplainRequest) -> admin_pb2.ExplainReply:
        """Recent decisions of all instances, newest first."""
        limit = request.limit or DEFAULT_DECISIONS
        replies = await asyncio.gather(*(_decisions(peer, request.model_id, limit) for peer in self._peers))
        decisions = list(self._own.local_decisions(request.model_id, limit).decisions)
        for reply in replies:
            decisions.extend(reply)
        decisions.sort(key=lambda decision: decision.time_ms, reverse=True)
        return admin_pb2.ExplainReply(decisions=decisions[:limit])

    async def _set_policy(self, request: admin_pb2.SetPolicyRequest) -> admin_pb2.SetPolicyReply:
        if not request.model_id:
            raise invalid("must provide non-empty model_id")
        told = {field.name: value for field, value in request.policy.ListFields()}

        def change(policy: CopyPolicy) -> CopyPolicy:
            return replace(CopyPolicy() if request.replace else policy, **told)

        policy = await self._policies.change(request.model_id, change)
        return admin_pb2.SetPolicyReply(policy=admin_pb2.Policy(**asdict(policy)))

    async def _copies_everywhere(self, among: Sequence[str]) -> dict[str, _LocalCopies]:
        """Instance to its copies by model; instances that do not answer in time are left out."""
        peers = list(self._peers)
        replies = await asyncio.gather(*(_ask(peer, among) for peer in peers))
        found = {self._instance_id: by_model(self._own.local_models(among).copies)}
        for peer, reply in zip(peers, replies, strict=True):
            if reply is not None:
                found[peer.instance_id] = by_model(reply.copies)
        of_model: dict[str, _LocalCopies] = defaultdict(dict)
        for instance_id, copies in found.items():
            for copy in copies.values():
                of_model[copy.model_id][instance_id] = copy
        return of_model

    @staticmethod
    def _model(model_id: str, record: ModelRecord, copies: dict[str, _LocalCopies]) -> admin_pb2.Model:
        known = copies.get(model_id, {})
        size = known_size(record)
        last_used_ms = max((copy.last_used_ms for copy in known.values()), default=0)
        return admin_pb2.Model(
            model_id=model_id,
            type=record.type,
            path=record.path,
            copies=[
                admin_pb2.Copy(
                    instance_id=instance_id,
                    state=copy.state,
                    size_bytes=copy.size_bytes,
                    since_ms=copy.since_ms,
                    last_used_ms=copy.last_used_ms,
                    in_flight=copy.in_flight,
                    requests_per_minute=copy.requests_per_minute,
                    pulled_bytes=copy.pulled_bytes,
                    to_pull_bytes=copy.to_pull_bytes,
                )
                for instance_id, copy in sorted(known.items())
                if copy.state != peer_pb2.COPY_STATE_FAILED
            ],
            failures=[
                admin_pb2.Failure(
                    instance_id=instance, time_ms=time, message=record.failure_message(instance)
                )
                for instance, time in record.failures.items()
            ],
            last_used_ms=max(record.last_used, last_used_ms),
            references=record.refs,
            size_bytes=size.units * UNIT_BYTES,
            size_source=size.source.value if size.units else "",
            policy=_policy(record),
        )


def _policy(record: ModelRecord) -> admin_pb2.Policy | None:
    policy = CopyPolicy.from_members(record.policy)
    return None if policy == DEFAULT_POLICY else admin_pb2.Policy(**asdict(policy))


async def _ask(peer: Peer, among: Sequence[str]) -> peer_pb2.LocalModelsReply | None:
    try:
        return await peer.models(among)
    except MeshError:
        return None


async def _decisions(peer: Peer, model_id: str, limit: int) -> Iterable[peer_pb2.Decision]:
    try:
        return (await peer.decisions(model_id, limit)).decisions
    except MeshError:
        return ()
