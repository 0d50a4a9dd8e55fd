"""Brings a model to an instance: one placement for all who wait for it, retried elsewhere where that helps."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import grpc

from mesh.instance.candidates import Candidates
from mesh.instance.errors import MeshError, Reason, model_not_found, registry_unavailable
from mesh.instance.loader import Loader
from mesh.instance.outcomes import (
    NO_RUNTIME,
    RETRY_AFTER_S,
    LoadOutcome,
    error_of,
    error_of_record,
    outcome_from,
)
from mesh.instance.peers import Peer, Peers
from mesh.instance.routes import Routes
from mesh.instance.sizing import known_size
from mesh.placement import (
    MAX_ROUNDS,
    NO_HOME,
    UNIT_BYTES,
    After,
    Attempt,
    Decision,
    DecisionKind,
    DecisionRing,
    Exclusion,
    InstanceFilter,
    KnownSize,
    Placement,
    PlacementReason,
    Refusal,
    RequestCaps,
    choose,
    failed_too_often,
    size_text,
)
from mesh.protos import peer_pb2
from mesh.registry import Company, InvalidRecord, ModelRecord, Registry, RegistryError
from mesh.runtimes import ModelInfo
from mesh.tracing import MODEL, Attribute, SpanContext, current, span, trace_id

log = logging.getLogger(__name__)

#: While no instance can load at all, such as during a restart, a model waits so long for one, seconds.
WAIT_FOR_INSTANCES_S = 3.0
#: Between two looks meanwhile, seconds.
LOOK_AGAIN_S = 0.1
#: Refusals that are told with a placement's span; a mesh may have a thousand instances.
MOST_TOLD = 20
#: A peer ends every load by itself well before this, seconds.
LOAD_CALL_TIMEOUT_S = 1_800.0


@dataclass(frozen=True, slots=True)
class Found:
    """Where a copy is now.

    Attributes:
        peer: None where it is on this instance.
    """

    peer: Peer | None


@dataclass(frozen=True, slots=True)
class _Placing:
    """A placement under way, and the span on behalf of which it is."""

    task: asyncio.Task[Found]
    cause: SpanContext | None


class Placer:
    """Places models for one instance.

    Args:
        loader: None for a pure router.
        ring: takes the decisions.
        candidates: the instances that models can go to.
        caps: how much is done for one model before it is given up.
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
        candidates: Candidates,
        *,
        caps: RequestCaps,
        random: Random,
        now_ms: Callable[[], int],
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._routes = routes
        self._peers = peers
        self._loader = loader
        self._ring = ring
        self._candidates = candidates
        self._caps = caps
        self._random = random
        self._now_ms = now_ms
        self._placing: dict[str, _Placing] = {}

    async def ensure_copy(
        self,
        model_id: str,
        *,
        last_used_ms: int,
        urgent: bool,
        balanced: bool = False,
        tried: frozenset[str] = frozenset(),
    ) -> Found:
        """Has a copy of the model somewhere, loading one where there is none that can be used.

        All who ask for one model at a time share one placement; that a caller gives up does not end it.

        Args:
            last_used_ms: epoch milliseconds of the use that asks.
            urgent: a request waits.
            balanced: the caller spreads its requests over the instances by itself.
            tried: instances that turned out not to serve the model; what they are listed with is no obstacle. Others
                are preferred to them, and this one is out of the question.

        Raises:
            MeshError: not registered, refused everywhere, or the load failed.
        """
        placing = self._placing.get(model_id)
        if placing is None:
            attempt = Attempt(
                model_id,
                last_used_ms,
                urgent,
                balanced,
                excluded={
                    instance_id: Exclusion.TRIED if instance_id == self._instance_id else Exclusion.NOT_SERVED
                    for instance_id in tried
                },
                beside=set(tried),
            )
            task = asyncio.get_running_loop().create_task(self._place(attempt))
            self._placing[model_id] = _Placing(task, current())
            task.add_done_callback(lambda task: self._placed(model_id, task))
            return await asyncio.shield(task)
        links = () if placing.cause is None else (placing.cause,)
        with span("mesh.wait", {MODEL: model_id}, links=links):
            if urgent and self._loader is not None:
                self._loader.hurry(model_id)
            return await asyncio.shield(placing.task)

    def is_placing(self, model_id: str) -> bool:
        """Whether a copy is being brought to an instance on behalf of this one."""
        return model_id in self._placing

    async def copy_elsewhere(self, model_id: str, *, last_used_ms: int) -> Found:
        """Has a copy on another instance that stays, loading one beside the one here where there is none.

        Raises:
            MeshError: no other instance can have it.
        """
        here = self._instance_id
        going = {name for name in self._registry.instances if self._routes.is_leaving(name)} | {here}
        return await self._place(
            Attempt(
                model_id,
                last_used_ms,
                excluded=dict.fromkeys(going, Exclusion.EXCLUDED),
                beside=going,
                replaced=frozenset({here}),
            )
        )

    async def raise_copies(
        self,
        model_id: str,
        copies: int,
        *,
        last_used_ms: int,
        why: str,
        conditions: Sequence[InstanceFilter] = (),
    ) -> int:
        """Has the model loaded on further instances, at the same time, until it has so many copies.

        Args:
            copies: that it is to have; those on leaving instances do not count.
            last_used_ms: epoch milliseconds that the new copies count as last used at.
            why: for people.
            conditions: on the instances that it may go to.

        Returns: how many copies it has got.

        Raises:
            MeshError: it got none, and why the last attempt failed.
        """
        record = await self.record(model_id)
        going = {instance_id for instance_id in record.copies if not self._routes.stays(instance_id)}
        missing = copies - len(record.copies.keys() - going)
        # Shared, so that an instance which one of them tries is no place for another.
        excluded = dict.fromkeys(going, Exclusion.EXCLUDED)
        outcomes = await asyncio.gather(
            *(
                self._place(
                    Attempt(
                        model_id,
                        last_used_ms,
                        excluded=excluded,
                        beside=set(going),
                        copies=copies,
                        conditions=conditions,
                        why=why,
                    )
                )
                for _ in range(missing)
            ),
            return_exceptions=True,
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if errors and len(errors) == len(outcomes):
            raise errors[-1]
        return len(outcomes) - len(errors)

    def has_place(self, model_id: str) -> bool:
        """Whether an instance without a copy may have one, now or when it has room or has got over a failure."""
        record = self._registry.models.get(model_id)
        if record is None:
            return False
        reason = self._choose_now(record.but(failures={}), Attempt(model_id, self._now_ms())).reason
        return reason in {PlacementReason.CHOSEN, PlacementReason.NO_ROOM}

    def without_home(self, model_id: str, record: ModelRecord) -> str:
        """What to tell of a model whose type no instance has the labels for; empty where one has."""
        message = self._choose_now(record, Attempt(model_id, self._now_ms())).message
        return message if message.startswith(NO_HOME) else ""

    def _placed(self, model_id: str, task: asyncio.Task[Found]) -> None:
        del self._placing[model_id]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, MeshError):
            log.error("placing broke off", exc_info=error, extra={"model": model_id})

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = tuple(placing.task for placing in self._placing.values())
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

    async def _place(self, attempt: Attempt) -> Found:
        model_id = attempt.model_id
        last: MeshError | None = None
        for round_number in range(MAX_ROUNDS):
            record = await self.record(model_id, fresh=round_number > 0)
            now_ms = self._now_ms()
            failures = attempt.failures(record.failures, now_ms)
            if failed_too_often(failures.values(), now_ms, self._caps) and (
                error := error_of_record(model_id, record) if record.failures else last
            ):
                raise error
            instance_id = self._existing(record, attempt)
            why = "a copy was expected here"
            if instance_id is None:
                if full := attempt.full_number(record.copies, record.max_copies, self._routes.stays):
                    raise last or _enough(model_id, full)
                with span("mesh.place", {MODEL: model_id}) as made:
                    placement = await self._choose(record, attempt)
                    made.set(_told(placement))
                if placement.chosen is None:
                    raise last or _nowhere(model_id, placement, record)
                instance_id, why = placement.chosen, placement.message
                if attempt.copies > 1:
                    attempt.excluded[instance_id] = Exclusion.HAS_COPY
                    why = f"{attempt.why}: {why}"
                attempt.locations += 1
            peer = self._peers.get(instance_id)
            outcome = await self._load(instance_id, peer, record, attempt, why)
            if isinstance(outcome, MeshError):
                last = outcome
            else:
                match attempt.learn(instance_id, outcome):
                    case After.DONE:
                        return Found(peer)
                    case After.LOOK_AGAIN:
                        pass
                    case After.ELSEWHERE:
                        last = error_of(model_id, outcome)
                    case After.GIVE_UP:
                        raise error_of(model_id, outcome)
            if attempt.locations >= self._caps.loads:
                break
        raise last or MeshError(
            grpc.StatusCode.UNAVAILABLE,
            Reason.NO_PLACE,
            f"model {model_id} kept moving between instances; try again",
            model_id,
            RETRY_AFTER_S,
        )

    def _existing(self, record: ModelRecord, attempt: Attempt) -> str | None:
        loading = self._loader is not None and self._loader.is_loading(attempt.model_id)
        counts = self._routes.live if attempt.copies == 1 else self._routes.stays
        return attempt.existing(record.copies, self._instance_id, counts, loading_here=loading)

    async def _choose(self, record: ModelRecord, attempt: Attempt) -> Placement:
        """Chooses an instance; where none is there at all, it waits a moment for one to come back."""
        deadline = time.monotonic() + WAIT_FOR_INSTANCES_S
        placement = self._choose_now(record, attempt)
        while placement.reason is PlacementReason.NO_INSTANCES and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_AGAIN_S)
            placement = self._choose_now(record, attempt)
        size = self._size_of(attempt.model_id, record)
        takes = f"; it takes {size_text(size.units)} ({size.source.value})" if size.units else ""
        self._ring.add(
            Decision(
                DecisionKind.PLACEMENT if placement.chosen else DecisionKind.REFUSAL,
                self._now_ms(),
                attempt.model_id,
                placement.message + takes,
                chosen=placement.chosen or "",
                candidates=placement.candidates,
                trace_id=trace_id(),
            )
        )
        return placement

    def _size_of(self, model_id: str, record: ModelRecord) -> KnownSize:
        """What is known of a model's size; a copy that is here tells better than the record."""
        return known_size(record, 0 if self._loader is None else self._loader.cache.learned_units(model_id))

    def _choose_now(self, record: ModelRecord, attempt: Attempt) -> Placement:
        self._candidates.refresh()
        now_ms = self._now_ms()
        return choose(
            self._candidates.ranked,
            attempt.request(
                record.type,
                record.copies,
                record.failures,
                self._routes.suspects(),
                units=self._size_of(attempt.model_id, record).units,
            ),
            now_ms,
            self._random,
            self_id=self._instance_id,
            reservations=self._candidates.reservations,
            filters=attempt.conditions,
            avoid=self._candidates.rollouts.replaced(now_ms),
        )

    async def _load(
        self, instance_id: str, peer: Peer | None, record: ModelRecord, attempt: Attempt, why: str
    ) -> LoadOutcome | MeshError:
        """Has an instance load the model; returns how that ended, or why the instance did not answer."""
        if instance_id == self._instance_id:
            return await self._load_here(record, attempt, why)
        if peer is None:
            attempt.unreachable(instance_id)
            return _gone(attempt.model_id, instance_id)
        return await self._load_at(peer, record, attempt, why)

    async def _load_here(self, record: ModelRecord, attempt: Attempt, why: str) -> LoadOutcome:
        if self._loader is None:
            return NO_RUNTIME
        # No reservation: what this instance has taken on shows in its own view at once.
        return await asyncio.shield(
            self._loader.load(
                model_info(attempt.model_id, record),
                last_used_ms=attempt.last_used_ms,
                urgent=attempt.urgent,
                why=why,
                size=self._size_of(attempt.model_id, record),
                company=Company(frozenset(attempt.beside), attempt.copies, attempt.replaced),
            )
        )

    async def _load_at(
        self, peer: Peer, record: ModelRecord, attempt: Attempt, why: str
    ) -> LoadOutcome | MeshError:
        model_id, instance_id, candidates = attempt.model_id, peer.instance_id, self._candidates
        size = self._size_of(model_id, record)
        candidates.reservations.add(
            model_id, instance_id, size.units or candidates.ranked.default_model_units, self._now_ms()
        )
        request = peer_pb2.LoadRequest(
            model_id=model_id,
            last_used_ms=attempt.last_used_ms,
            urgent=attempt.urgent,
            wait=True,
            reason=why,
            beside=attempt.beside,
            size_hint_bytes=size.learned * UNIT_BYTES,
            copies=attempt.copies,
            replaced=attempt.replaced,
        )
        try:
            outcome = outcome_from(await peer.load(request, LOAD_CALL_TIMEOUT_S))
        except MeshError as error:
            candidates.reservations.release(model_id, instance_id)
            if error.reason is Reason.MODEL_NOT_FOUND:
                raise
            attempt.unreachable(instance_id)
            self._routes.note_unreachable(peer)
            return error
        if outcome.loaded:
            # Counts until the instance's own record shows the copy.
            candidates.reservations.accepted(model_id, instance_id, self._now_ms())
            self._routes.note_loaded(model_id, peer)
        else:
            candidates.reservations.release(model_id, instance_id)
        return outcome


def _told(placement: Placement) -> Mapping[str, Attribute]:
    refused = [f"{one.instance_id}: {one.refused}" for one in placement.candidates if one.refused]
    return {
        "mesh.place.chosen": placement.chosen or "",
        "mesh.place.reason": placement.message,
        "mesh.place.refused": tuple(refused[:MOST_TOLD]),
    }


def _gone(model_id: str, instance_id: str) -> MeshError:
    message = f"instance {instance_id}, which was to load model {model_id}, is gone"
    return MeshError(grpc.StatusCode.UNAVAILABLE, Reason.NO_PLACE, message, model_id, RETRY_AFTER_S)


def _enough(model_id: str, instances: list[str]) -> MeshError:
    refusal = LoadOutcome(
        loaded=False,
        reason=Refusal.ENOUGH_COPIES,
        message=f"it has copies at {', '.join(instances)}, as many as its policy allows",
    )
    return error_of(model_id, refusal)


def _nowhere(model_id: str, placement: Placement, record: ModelRecord) -> MeshError:
    match placement.reason:
        case PlacementReason.TOO_LARGE:
            return MeshError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.TOO_LARGE, placement.message, model_id
            )
        case PlacementReason.ALL_EXCLUDED if record.failures:
            return error_of_record(model_id, record)
        case PlacementReason.NOT_ELIGIBLE:
            return MeshError(
                grpc.StatusCode.UNAVAILABLE, Reason.NO_PLACE, placement.message, model_id, RETRY_AFTER_S
            )
        case PlacementReason.NO_ROOM:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
        case _:
            code = grpc.StatusCode.UNAVAILABLE
    message = f"Nowhere available to load: {placement.message}"
    return MeshError(code, Reason.NO_PLACE, message, model_id, RETRY_AFTER_S)


def model_info(model_id: str, record: ModelRecord) -> ModelInfo:
    """The model as its runtime gets it."""
    return ModelInfo(model_id, record.type, record.path, record.key)
