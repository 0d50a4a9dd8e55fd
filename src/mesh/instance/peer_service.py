"""What this instance answers to its peers."""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable, Mapping

from mesh.dataplane import DataPlane
from mesh.instance.calls import Rpc, service
from mesh.instance.candidates import Candidates
from mesh.instance.loader import Loader
from mesh.instance.outcomes import NO_RUNTIME, LoadOutcome, not_eligible
from mesh.instance.placer import Placer, model_info
from mesh.instance.sizing import known_size
from mesh.instance.usage import Rates
from mesh.placement import UNIT_BYTES, CopyState, CopyView, Decision, DecisionRing, to_units
from mesh.protos import peer_pb2
from mesh.registry import Company
from mesh.runtimes import PullProgress

STATES: dict[CopyState, peer_pb2.CopyState.ValueType] = {
    CopyState.NEW: peer_pb2.COPY_STATE_QUEUED,
    CopyState.QUEUED: peer_pb2.COPY_STATE_QUEUED,
    CopyState.WAITING: peer_pb2.COPY_STATE_WAITING,
    CopyState.LOADING: peer_pb2.COPY_STATE_LOADING,
    CopyState.SIZING: peer_pb2.COPY_STATE_SIZING,
    CopyState.LOADED: peer_pb2.COPY_STATE_LOADED,
    CopyState.FAILED: peer_pb2.COPY_STATE_FAILED,
    CopyState.UNLOADING: peer_pb2.COPY_STATE_UNLOADING,
}


SERVICE = "mesh.peer.v1.Peer"
_NO_PULL = PullProgress(0, 0)

Pulls = Callable[[], Mapping[str, PullProgress]]
"""Tells how far the pulls of this instance are, by model."""


class PeerService:
    """The rpcs of ``mesh.peer.v1.Peer``, each about this instance alone."""

    def __init__(
        self,
        instance_id: str,
        placer: Placer,
        loader: Loader | None,
        candidates: Candidates,
        dataplane: DataPlane,
        ring: DecisionRing,
        rates: Rates,
        pulls: Pulls,
    ) -> None:
        self._instance_id = instance_id
        self._pulls = pulls
        self._placer = placer
        self._loader = loader
        self._candidates = candidates
        self._dataplane = dataplane
        self._ring = ring
        self._rates = rates

    def rpcs(self) -> dict[str, Rpc]:
        """The methods by their full names."""
        return service(
            SERVICE,
            {
                "Load": Rpc(self.load, peer_pb2.LoadRequest),
                "CopyStatus": Rpc(self._tell_copy_status, peer_pb2.CopyStatusRequest),
                "LocalModels": Rpc(self._tell_models, peer_pb2.LocalModelsRequest),
                "LocalDecisions": Rpc(self._tell_decisions, peer_pb2.LocalDecisionsRequest),
            },
        )

    async def load(self, request: peer_pb2.LoadRequest) -> peer_pb2.LoadReply:
        """Loads a model here, or joins the load that is under way.

        Raises:
            MeshError: the model is not registered, or the registry cannot tell.
        """
        if self._loader is None:
            return self._reply(request.model_id, NO_RUNTIME)
        record = await self._placer.record(request.model_id)
        if (
            why_not := self._candidates.forbidden_here(record.type)
        ) and request.model_id not in self._loader.cache:
            return self._reply(request.model_id, not_eligible(why_not))
        waiter = self._loader.load(
            model_info(request.model_id, record),
            last_used_ms=request.last_used_ms,
            urgent=request.urgent,
            size=known_size(record, to_units(request.size_hint_bytes)),
            why=request.reason,
            company=Company(frozenset(request.beside), request.copies or 1, frozenset(request.replaced)),
        )
        if not request.wait and not waiter.done():
            return peer_pb2.LoadReply(state=self._state(request.model_id))
        return self._reply(request.model_id, await asyncio.shield(waiter))

    def _reply(self, model_id: str, outcome: LoadOutcome) -> peer_pb2.LoadReply:
        state = self._state(model_id)
        if outcome.loaded:
            state = peer_pb2.COPY_STATE_LOADED
        elif outcome.failed:
            state = peer_pb2.COPY_STATE_FAILED
        return peer_pb2.LoadReply(
            state=state,
            reason=outcome.reason,
            message=outcome.message,
            code=int(outcome.code.value[0]),
            retry_elsewhere=outcome.retry_elsewhere,
        )

    def _state(self, model_id: str) -> peer_pb2.CopyState.ValueType:
        copy = None if self._loader is None else self._loader.cache.copy(model_id)
        return peer_pb2.COPY_STATE_ABSENT if copy is None else STATES[copy.state]

    async def _tell_copy_status(self, request: peer_pb2.CopyStatusRequest) -> peer_pb2.CopyStatusReply:
        return self.copy_status(request.model_id)

    def copy_status(self, model_id: str) -> peer_pb2.CopyStatusReply:
        """The state of the copy here."""
        copy = None if self._loader is None else self._loader.cache.copy(model_id)
        if copy is None:
            return peer_pb2.CopyStatusReply(state=peer_pb2.COPY_STATE_ABSENT)
        return peer_pb2.CopyStatusReply(
            state=STATES[copy.state],
            since_ms=copy.since_ms,
            message=copy.message,
            size_bytes=copy.units * UNIT_BYTES,
            last_used_ms=copy.last_used_ms,
            in_flight=self._dataplane.local_in_flight(model_id),
            requests_per_minute=self._rates.lately(model_id, time.monotonic()),
        )

    async def _tell_models(self, request: peer_pb2.LocalModelsRequest) -> peer_pb2.LocalModelsReply:
        among = (request.model_id,) if request.model_id else request.among
        return self.local_models(among, request.most)

    def local_models(self, among: Iterable[str] = (), most: int = 0) -> peer_pb2.LocalModelsReply:
        """The copies here.

        Args:
            among: the models that are asked about; all where empty.
            most: copies to tell of, those that change first, then those asked most; 0 for any number.
        """
        if self._loader is None:
            return peer_pb2.LocalModelsReply()
        self._loader.read_usage()
        if asked := list(among):
            found = (self._loader.cache.copy(model_id) for model_id in asked)
            copies = [copy for copy in found if copy is not None]
        else:
            copies = list(self._loader.cache.copies())
        shown = heapq.nsmallest(most, copies, self._interest) if 0 < most < len(copies) else copies
        pulls = self._pulls()
        reply = peer_pb2.LocalModelsReply(
            copies=[self._local_copy(copy, pulls.get(copy.model_id, _NO_PULL)) for copy in shown]
        )
        if len(shown) < len(copies):
            units = sum(copy.units for copy in copies) - sum(copy.units for copy in shown)
            reply.others, reply.others_bytes = len(copies) - len(shown), units * UNIT_BYTES
        return reply

    def _interest(self, copy: CopyView) -> tuple[bool, int, int]:
        """Less for those that people would rather see."""
        return copy.state is CopyState.LOADED, -self._rates.of(copy.model_id), -copy.last_used_ms

    def _local_copy(self, copy: CopyView, pull: PullProgress) -> peer_pb2.LocalCopy:
        return peer_pb2.LocalCopy(
            model_id=copy.model_id,
            state=STATES[copy.state],
            size_bytes=copy.units * UNIT_BYTES,
            since_ms=copy.since_ms,
            last_used_ms=copy.last_used_ms,
            in_flight=copy.in_flight,
            requests_per_minute=self._rates.of(copy.model_id),
            message=copy.message or copy.why,
            pulled_bytes=pull.done_bytes,
            to_pull_bytes=pull.total_bytes,
        )

    async def _tell_decisions(self, request: peer_pb2.LocalDecisionsRequest) -> peer_pb2.LocalDecisionsReply:
        return self.local_decisions(
            request.model_id, request.limit, since_ms=request.since_ms, brief=request.brief
        )

    def local_decisions(
        self, model_id: str, limit: int, *, since_ms: int = 0, brief: bool = False
    ) -> peer_pb2.LocalDecisionsReply:
        """Recent decisions made here, newest first.

        Args:
            model_id: that they are about; any where empty.
            limit: of their number.
            since_ms: that they were made at or after, epoch milliseconds.
            brief: leave the candidates out.
        """
        return peer_pb2.LocalDecisionsReply(
            decisions=[
                self._decision(decision, brief)
                for decision in self._ring.newest(limit, model_id)
                if decision.time_ms >= since_ms
            ]
        )

    def _decision(self, decision: Decision, brief: bool) -> peer_pb2.Decision:
        return peer_pb2.Decision(
            instance_id=self._instance_id,
            time_ms=decision.time_ms,
            kind=decision.kind.value,
            model_id=decision.model_id,
            summary=decision.summary,
            chosen=decision.chosen,
            candidates=[
                peer_pb2.Candidate(
                    instance_id=candidate.instance_id,
                    refused=candidate.refused,
                    score=candidate.score,
                    rank=candidate.rank,
                )
                for candidate in (() if brief else decision.candidates)
            ],
            related_models=decision.related_models,
            trace_id=decision.trace_id,
        )
