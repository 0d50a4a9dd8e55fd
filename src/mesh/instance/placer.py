"""Brings a model to an instance: one placement for all who wait for it, retried elsewhere where that helps."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import grpc

from mesh.instance.errors import MeshError, Reason, model_not_found, registry_unavailable, status_from_number
from mesh.instance.loader import Loader, LoadOutcome
from mesh.instance.peers import Peer, Peers
from mesh.instance.routes import Routes
from mesh.placement import (
    ClusterView,
    Decision,
    DecisionKind,
    DecisionRing,
    Exclusion,
    Failure,
    InstanceView,
    Placement,
    PlacementReason,
    PlacementRequest,
    Refusal,
    Reservations,
    choose,
)
from mesh.protos import peer_pb2
from mesh.registry import InvalidRecord, ModelRecord, Registry, RegistryError
from mesh.runtimes import ModelInfo

log = logging.getLogger(__name__)

#: Instances on which one request's model is tried, at most; as KServe ModelMesh has it.
MAX_LOCATIONS = 5
#: Recent failures after which a model is not tried again before they expire; as KServe ModelMesh has it.
MAX_RECENT_FAILURES = 3
#: Rounds of looking and trying, at most: refusals because another instance was first cost a round each.
MAX_ROUNDS = 8
#: A peer ends every load by itself well before this, seconds.
LOAD_CALL_TIMEOUT_S = 1_800.0
#: When a refusal for lack of room may be worth a retry, seconds.
RETRY_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """Where a copy is now.

    Attributes:
        peer: None where it is on this instance.
    """

    peer: Peer | None


@dataclass(slots=True)
class _Attempt:
    """What was learned while placing one model.

    Attributes:
        excluded: instances that are out of the question, and why.
        beside: instances whose copies do not stand in the way of another.
        last: why the last instance did not take it.
        locations: instances that were asked to load it.
    """

    excluded: dict[str, Exclusion]
    beside: set[str] = field(default_factory=set)
    last: MeshError | None = None
    locations: int = 0


class Placer:
    """Places models for one instance.

    Args:
        loader: None for a pure router.
        self_view: this instance as a candidate, at this moment; None for a pure router.
        default_model_units: assumed size of a model of which nothing is known.
        failure_expiry_ms: how long failures count.
        random: breaks ties.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        routes: Routes,
        peers: Peers,
        loader: Loader | None,
        ring: DecisionRing,
        self_view: Callable[[], InstanceView | None],
        *,
        default_model_units: int,
        failure_expiry_ms: int,
        random: Random,
        now_ms: Callable[[], int],
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._routes = routes
        self._peers = peers
        self._loader = loader
        self._ring = ring
        self._self_view = self_view
        self._default_model_units = default_model_units
        self._failure_expiry_ms = failure_expiry_ms
        self._random = random
        self._now_ms = now_ms
        self._views: dict[str, InstanceView] = {}
        self._reservations = Reservations()
        self._placing: dict[str, asyncio.Task[Found]] = {}

    def start(self) -> None:
        """Follows the instances' records; peers must be known first."""
        self._registry.instances.subscribe(
            lambda instance_id, *_: self._instance_changed(instance_id), replay=True
        )

    async def ensure_copy(
        self,
        model_id: str,
        *,
        last_used_ms: int,
        urgent: bool,
        balanced: bool = False,
        tried: frozenset[str] = frozenset(),
        unreachable: frozenset[str] = frozenset(),
    ) -> Found:
        """Has a copy of the model somewhere, loading one where there is none that can be used.

        All who ask for one model at a time share one placement; that a caller gives up does not end it.

        Args:
            last_used_ms: epoch milliseconds of the use that asks.
            urgent: a request waits.
            balanced: the caller spreads its requests over the instances by itself.
            tried: instances that turned out not to serve the model.
            unreachable: those of them that did not answer: their copies do not stand in the way of another.

        Raises:
            MeshError: not registered, refused everywhere, or the load failed.
        """
        placing = self._placing.get(model_id)
        if placing is None:
            attempt = _Attempt(dict.fromkeys(tried, Exclusion.TRIED), set(unreachable))
            placing = asyncio.get_running_loop().create_task(
                self._place(model_id, attempt, last_used_ms=last_used_ms, urgent=urgent, balanced=balanced)
            )
            self._placing[model_id] = placing
            placing.add_done_callback(lambda task: self._placed(model_id, task))
        return await asyncio.shield(placing)

    async def copy_elsewhere(self, model_id: str, *, last_used_ms: int) -> Found:
        """Has a copy on another instance, loading one beside the one here where there is none.

        Raises:
            MeshError: no other instance can have it.
        """
        attempt = _Attempt({self._instance_id: Exclusion.EXCLUDED}, {self._instance_id})
        return await self._place(model_id, attempt, last_used_ms=last_used_ms, urgent=False, balanced=False)

    def _placed(self, model_id: str, task: asyncio.Task[Found]) -> None:
        del self._placing[model_id]
        if (
            not task.cancelled()
            and (error := task.exception()) is not None
            and not isinstance(error, MeshError)
        ):
            log.error("placing broke off", exc_info=error, extra={"model": model_id})

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = tuple(self._placing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def record(self, model_id: str, *, fresh: bool = False) -> ModelRecord:
        """The model's record.

        Args:
            fresh: read it from the store itself.

        Raises:
            MeshError: MODEL_NOT_FOUND or REGISTRY_UNAVAILABLE.
        """
        record = self._registry.models.get(model_id)
        if record is None or fresh:
            try:
                record = await self._registry.models.fetch(model_id)
            except InvalidRecord as error:
                raise MeshError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    Reason.INVALID_ARGUMENT,
                    f"the registry's record of model {model_id} cannot be read: {error}; register it anew",
                    model_id,
                ) from None
            except RegistryError as error:
                if record is not None:
                    return record
                raise registry_unavailable(
                    f"model {model_id} is not known here and {error}", model_id
                ) from None
        if record is None:
            raise model_not_found(model_id)
        return record

    async def _place(
        self, model_id: str, attempt: _Attempt, *, last_used_ms: int, urgent: bool, balanced: bool
    ) -> Found:
        for round_number in range(MAX_ROUNDS):
            record = await self.record(model_id, fresh=round_number > 0)
            self._check_failures(model_id, record)
            instance_id = self._existing(record, attempt)
            why = "a copy was expected here"
            if instance_id is None:
                placement = self._choose(model_id, record, attempt, last_used_ms, balanced)
                if placement.chosen is None:
                    raise attempt.last or self._nowhere(model_id, placement, record)
                instance_id, why = placement.chosen, placement.message
                attempt.locations += 1
            found = await self._load_at(instance_id, model_id, record, attempt, last_used_ms, urgent, why)
            if found is not None:
                return found
            if attempt.locations >= MAX_LOCATIONS:
                break
        raise attempt.last or MeshError(
            grpc.StatusCode.UNAVAILABLE,
            Reason.NO_PLACE,
            f"model {model_id} kept moving between instances; try again",
            model_id,
            retry_after_s=RETRY_AFTER_S,
        )

    def _check_failures(self, model_id: str, record: ModelRecord) -> None:
        recent_ms = self._now_ms() - self._failure_expiry_ms // 2
        recent = sorted(
            (failed, instance) for instance, failed in record.failures.items() if failed > recent_ms
        )
        if len(recent) >= MAX_RECENT_FAILURES:
            message = record.failure_message(recent[-1][1]) or "the load failed"
            raise _load_failed(model_id, message)

    def _existing(self, record: ModelRecord, attempt: _Attempt) -> str | None:
        """An instance that lists a copy and may serve it, this one first, else the one that began first."""
        copies = [
            (instance_id != self._instance_id, started, instance_id)
            for instance_id, started in record.copies.items()
            if instance_id not in attempt.excluded and self._routes.live(instance_id)
        ]
        return min(copies)[2] if copies else None

    def _choose(
        self, model_id: str, record: ModelRecord, attempt: _Attempt, last_used_ms: int, balanced: bool
    ) -> Placement:
        now_ms = self._now_ms()
        excluded = dict(attempt.excluded)
        for instance_id in record.failures:
            excluded.setdefault(instance_id, Exclusion.FAILED)
        for instance_id in record.copies:
            excluded.setdefault(instance_id, Exclusion.HAS_COPY)
        views = {
            instance_id: view
            for instance_id, view in self._views.items()
            if self._peers.get(instance_id) is not None and not self._routes.is_suspect(instance_id)
        }
        if (own := self._self_view()) is not None:
            views[self._instance_id] = own
        request = PlacementRequest(
            model_id, record.type, last_used_ms=last_used_ms, excluded=excluded, balanced=balanced
        )
        self._reservations.expire(now_ms)
        placement = choose(
            ClusterView(views, self._instance_id, self._default_model_units),
            request,
            now_ms,
            self._random,
            reservations=self._reservations,
        )
        self._ring.add(
            Decision(
                DecisionKind.PLACEMENT if placement.chosen else DecisionKind.REFUSAL,
                now_ms,
                model_id,
                placement.message,
                chosen=placement.chosen or "",
                candidates=placement.candidates,
            )
        )
        return placement

    async def _load_at(
        self,
        instance_id: str,
        model_id: str,
        record: ModelRecord,
        attempt: _Attempt,
        last_used_ms: int,
        urgent: bool,
        why: str,
    ) -> Found | None:
        """Tries one instance; what it learns goes into ``attempt``.

        Raises:
            MeshError: no other instance would do better.
        """
        try:
            if instance_id == self._instance_id and self._loader is not None:
                # No reservation: what this instance has taken on shows in its own view at once.
                peer = None
                outcome = await asyncio.shield(
                    self._loader.load(
                        model_info(model_id, record),
                        last_used_ms=last_used_ms,
                        urgent=urgent,
                        why=why,
                        beside=frozenset(attempt.beside),
                    )
                )
            else:
                peer = self._peers.get(instance_id)
                if peer is None:
                    attempt.excluded[instance_id] = Exclusion.TRIED
                    return None
                request = peer_pb2.LoadRequest(
                    model_id=model_id,
                    last_used_ms=last_used_ms,
                    urgent=urgent,
                    wait=True,
                    reason=why,
                    beside=attempt.beside,
                )
                self._reservations.add(model_id, instance_id, self._default_model_units, self._now_ms())
                outcome = outcome_from(await peer.load(request, LOAD_CALL_TIMEOUT_S))
        except MeshError as error:
            if error.reason is Reason.MODEL_NOT_FOUND:
                raise
            self._reservations.release(model_id, instance_id)
            attempt.excluded[instance_id] = Exclusion.TRIED
            attempt.beside.add(instance_id)
            attempt.last = error
            if peer is not None:
                self._routes.note_unreachable(peer)
            return None
        if outcome.loaded:
            # Counts until the instance's own record shows the copy.
            self._reservations.accepted(model_id, instance_id, self._now_ms())
        else:
            self._reservations.release(model_id, instance_id)
        if outcome.loaded:
            if peer is not None:
                self._routes.note_loaded(model_id, peer)
            return Found(peer)
        if outcome.reason == Refusal.NOT_REGISTERED and outcome.retry_elsewhere:
            # Another instance was first: look again where.
            attempt.last = None
            return None
        attempt.excluded[instance_id] = Exclusion.FAILED if outcome.failed else Exclusion.TRIED
        attempt.last = error_of(model_id, outcome)
        if not outcome.retry_elsewhere:
            raise attempt.last
        return None

    def _nowhere(self, model_id: str, placement: Placement, record: ModelRecord) -> MeshError:
        if placement.reason is PlacementReason.TOO_LARGE:
            return MeshError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.TOO_LARGE, placement.message, model_id
            )
        if placement.reason is PlacementReason.NO_INSTANCES:
            return MeshError(
                grpc.StatusCode.UNAVAILABLE,
                Reason.NO_PLACE,
                f"no instance can load models now: {placement.message}",
                model_id,
                retry_after_s=RETRY_AFTER_S,
            )
        if record.failures and placement.reason is PlacementReason.ALL_EXCLUDED:
            newest = max(record.failures, key=lambda instance_id: record.failures[instance_id])
            return _load_failed(model_id, record.failure_message(newest) or "the load failed")
        code = (
            grpc.StatusCode.RESOURCE_EXHAUSTED
            if placement.reason is PlacementReason.NO_ROOM
            else grpc.StatusCode.UNAVAILABLE
        )
        message = f"Nowhere available to load: {placement.message}"
        return MeshError(code, Reason.NO_PLACE, message, model_id, retry_after_s=RETRY_AFTER_S)

    def _instance_changed(self, instance_id: str) -> None:
        record = self._registry.instances.get(instance_id)
        if record is None or not record.endpoint or record.capacity == 0:
            self._views.pop(instance_id, None)
            self._reservations.instance_gone(instance_id)
            return
        self._views[instance_id] = InstanceView(
            instance_id,
            capacity_units=record.capacity,
            used_units=record.used,
            oldest_used_ms=record.oldest_use,
            models=record.count,
            loader_threads=record.loading_threads,
            loads_in_progress=record.loads_in_progress,
            requests_per_minute=record.request_rate,
            shutting_down=record.shutting_down,
            version=record.version,
            zone=record.zone,
            labels=frozenset(record.labels),
            start_time_ms=record.start_time,
        )
        self._reservations.record_renewed(instance_id, self._now_ms())


def model_info(model_id: str, record: ModelRecord) -> ModelInfo:
    """The model as its runtime gets it."""
    return ModelInfo(model_id, record.type, record.path, record.key)


def outcome_from(reply: peer_pb2.LoadReply) -> LoadOutcome:
    """A peer's answer as if the load had been here."""
    loaded = reply.state in {peer_pb2.COPY_STATE_LOADED, peer_pb2.COPY_STATE_SIZING}
    return LoadOutcome(
        loaded=loaded,
        reason=reply.reason,
        code=status_from_number(reply.code),
        message=reply.message,
        retry_elsewhere=reply.retry_elsewhere,
        failed=reply.state == peer_pb2.COPY_STATE_FAILED,
    )


def error_of(model_id: str, outcome: LoadOutcome) -> MeshError:
    """The status of a request whose model could not be loaded."""
    match outcome.reason:
        case Failure.LARGER_THAN_CAPACITY:
            return MeshError(grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.TOO_LARGE, outcome.message, model_id)
        case Failure.TIMEOUT:
            return MeshError(
                grpc.StatusCode.DEADLINE_EXCEEDED, Reason.LOAD_TIMEOUT, outcome.message, model_id
            )
        case Failure.RUNTIME:
            return _load_failed(model_id, outcome.message)
        case Refusal.CHURN:
            return MeshError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.CHURN,
                outcome.message,
                model_id,
                retry_after_s=RETRY_AFTER_S,
            )
        case Refusal.NOT_REGISTERED:
            return registry_unavailable(outcome.message, model_id)
        case Refusal.SHUTTING_DOWN:
            return MeshError(
                grpc.StatusCode.UNAVAILABLE,
                Reason.SHUTTING_DOWN,
                outcome.message,
                model_id,
                retry_after_s=1.0,
            )
        case _:
            return MeshError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.NO_PLACE,
                outcome.message,
                model_id,
                retry_after_s=RETRY_AFTER_S,
            )


def _load_failed(model_id: str, message: str) -> MeshError:
    return MeshError(grpc.StatusCode.INTERNAL, Reason.LOAD_FAILED, message, model_id)
