"""Brings models to instances on behalf of one simulated instance."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mesh.placement import (
    MAX_ROUNDS,
    After,
    Attempt,
    Exclusion,
    InstanceFilter,
    KnownSize,
    Placement,
    PlacementPolicy,
    PlacementReason,
    RequestCaps,
    Reservations,
    choose,
    failed_too_often,
)
from mesh.registry import Company, ModelRecord, RegistryError
from mesh.simulation.agenda import Process
from mesh.simulation.loader import LoadOutcome
from mesh.simulation.models import Model

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance

#: While no instance can load at all, a model waits so long for one; as in an instance.
WAIT_FOR_INSTANCES_US = 3_000_000
LOOK_AGAIN_US = 100_000

#: Nobody reads a million explanations.
_UNEXPLAINED = PlacementPolicy(explained=0)


@dataclass(frozen=True, slots=True)
class Found:
    """Where a copy is now."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class NotPlaced:
    """Why there is no copy."""

    reason: str
    message: str


class Placer:
    """Places models for one simulated instance.

    Attributes:
        placing: models being placed, each with the process that all who wait for it share.
        reservations: placements that the records do not show yet.
    """

    def __init__(self, instance: "Instance") -> None:
        self._instance = instance
        self._caps = RequestCaps()
        self.reservations = Reservations()
        self._reserved_at: dict[str, int] = {}
        self.placing: dict[str, Process] = {}

    def ensure_copy(
        self, model: Model, *, urgent: bool, tried: frozenset[str] = frozenset(), last_used_ms: int = 0
    ) -> Process:
        """Has a copy of the model somewhere; the process ends with a `Found` or `NotPlaced`."""
        placing = self.placing.get(model.model_id)
        if placing is None:
            attempt = Attempt(
                model.model_id,
                last_used_ms or self._instance.now_ms,
                urgent,
                balanced=self._instance.world.scenario.balanced,
                excluded=dict.fromkeys(tried, Exclusion.TRIED),
                beside=set(tried),
            )
            placing = self._instance.start(self._placing(model, attempt))
            if not placing.done:
                self.placing[model.model_id] = placing
        elif urgent:
            self._instance.loader.hurry(model.model_id)
        return placing

    def copy_elsewhere(self, model: Model, *, last_used_ms: int) -> Generator[Any, Any, Found | NotPlaced]:
        """Has a copy on another instance, loading one beside the one here where there is none."""
        instance = self._instance
        here = instance.instance_id
        going = {name for name in instance.seen.records if instance.is_leaving(name)} | {here}
        return self._place(
            model,
            Attempt(
                model.model_id,
                last_used_ms,
                excluded=dict.fromkeys(going, Exclusion.EXCLUDED),
                beside=going,
                replaced=frozenset({here}),
            ),
        )

    def raise_copies(
        self, model: Model, copies: int, *, last_used_ms: int, conditions: Sequence[InstanceFilter]
    ) -> Generator[Any, Any, int]:
        """Has the model loaded on further instances at the same time; returns how many copies it has got."""
        instance = self._instance
        record = instance.client.model(model.model_id)
        if record is None:
            return 0
        missing = copies - sum(instance.stays(name) for name in record.copies)
        # Shared, so that an instance which one of them tries is no place for another.
        excluded: dict[str, Exclusion] = {}
        attempts = [
            Attempt(model.model_id, last_used_ms, excluded=excluded, copies=copies, conditions=conditions)
            for _ in range(missing)
        ]
        under_way = [instance.start(self._place(model, attempt)) for attempt in attempts]
        added = 0
        for one in under_way:
            found = yield one
            added += isinstance(found, Found)
        return added

    def _placing(self, model: Model, attempt: Attempt) -> Generator[Any, Any, Found | NotPlaced]:
        result = yield from self._place(model, attempt)
        self.placing.pop(model.model_id, None)
        return result

    def _place(self, model: Model, attempt: Attempt) -> Generator[Any, Any, Found | NotPlaced]:
        instance, model_id = self._instance, model.model_id
        last: NotPlaced | None = None
        for round_number in range(MAX_ROUNDS):
            record = instance.client.model(model_id)
            if record is None or round_number > 0:
                try:
                    record = yield from instance.client.fetch_model(model_id)
                except RegistryError as error:
                    if record is None:
                        return NotPlaced("registry_unavailable", str(error))
            if record is None:
                return NotPlaced("model_not_found", f"model {model_id} is not registered")
            failures = attempt.failures(record.failures, instance.now_ms)
            if failed_too_often(failures.values(), instance.now_ms, self._caps):
                return last or NotPlaced("load_failed", "the model failed to load too often")
            name = attempt.existing(
                record.copies,
                instance.instance_id,
                instance.is_live if attempt.copies == 1 else instance.stays,
                loading_here=model_id in instance.loader.wanted,
            )
            if name is None:
                placement = yield from self._choose(record, attempt)
                if placement.chosen is None:
                    return last or NotPlaced(placement.reason.value, placement.message)
                name = placement.chosen
                if attempt.copies > 1:
                    attempt.excluded[name] = Exclusion.HAS_COPY
                attempt.locations += 1
            if name == instance.instance_id:
                outcome = yield instance.loader.load(
                    model,
                    last_used_ms=attempt.last_used_ms,
                    urgent=attempt.urgent,
                    size=self._size_of(model_id, record),
                    company=_company(attempt),
                )
            else:
                outcome = yield from self._load_at(name, model, record, attempt)
            if not isinstance(outcome, LoadOutcome):
                last = outcome
            else:
                match attempt.learn(name, outcome):
                    case After.DONE:
                        return Found(name)
                    case After.LOOK_AGAIN:
                        pass
                    case After.ELSEWHERE:
                        last = NotPlaced(outcome.reason, outcome.message)
                    case After.GIVE_UP:
                        return NotPlaced(outcome.reason, outcome.message)
            if attempt.locations >= self._caps.loads:
                break
        return last or NotPlaced("kept_moving", f"model {model_id} kept moving between instances")

    def _choose(self, record: ModelRecord, attempt: Attempt) -> Generator[Any, Any, Placement]:
        deadline_us = self._instance.agenda.now_us + WAIT_FOR_INSTANCES_US
        placement = self._choose_now(record, attempt)
        while placement.reason is PlacementReason.NO_INSTANCES and self._instance.agenda.now_us < deadline_us:
            yield LOOK_AGAIN_US
            placement = self._choose_now(record, attempt)
        return placement

    def _choose_now(self, record: ModelRecord, attempt: Attempt) -> Placement:
        instance = self._instance
        self._look_at_renewed()
        own = instance.presence.candidate()
        suspects = instance.routes.suspects()
        if own is None:
            # Others may see it still.
            suspects |= {instance.instance_id}
        return choose(
            instance.seen.ranked,
            attempt.request(
                record.type,
                record.copies,
                record.failures,
                suspects,
                units=self._size_of(attempt.model_id, record).units,
            ),
            instance.now_ms,
            instance.random,
            self_id=instance.instance_id,
            own=own,
            reservations=self.reservations,
            filters=attempt.conditions,
            policy=_UNEXPLAINED,
        )

    def _size_of(self, model_id: str, record: ModelRecord) -> KnownSize:
        """What is known of a model's size; a copy that is here tells better than the record."""
        return KnownSize(learned=self._instance.loader.cache.learned_units(model_id) or record.size_units)

    def _look_at_renewed(self) -> None:
        """Takes in, where it matters, that records were renewed since the last choice."""
        now_ms, renewed_us = self._instance.now_ms, self._instance.seen.renewed_us
        self.reservations.expire(now_ms)
        for name, looked_us in tuple(self._reserved_at.items()):
            delivered_us = renewed_us.get(name)
            if delivered_us is None:
                self.reservations.instance_gone(name)
            elif delivered_us > looked_us:
                self.reservations.record_renewed(name, self._instance.world.ms_at(delivered_us))
                self._reserved_at[name] = delivered_us
            if not self.reservations.pending(name).loads:
                del self._reserved_at[name]

    def _load_at(
        self, name: str, model: Model, record: ModelRecord, attempt: Attempt
    ) -> Generator[Any, Any, LoadOutcome | NotPlaced]:
        instance, model_id = self._instance, model.model_id
        if not instance.is_live(name):
            attempt.unreachable(name)
            return NotPlaced("gone", f"instance {name} is gone")
        size = self._size_of(model_id, record)
        units = size.units or instance.seen.ranked.default_model_units
        self.reservations.add(model_id, name, units, instance.now_ms)
        self._reserved_at.setdefault(name, instance.agenda.now_us)
        company = _company(attempt)
        outcome = yield instance.call(
            instance.world.instances.get(name),
            lambda peer: _load_for_peer(
                peer,
                model,
                last_used_ms=attempt.last_used_ms,
                urgent=attempt.urgent,
                size=size,
                company=company,
            ),
        )
        if not isinstance(outcome, LoadOutcome):
            self.reservations.release(model_id, name)
            attempt.unreachable(name)
            instance.routes.note_unreachable(name)
            return NotPlaced("unreachable", f"instance {name} does not answer")
        if outcome.loaded:
            self.reservations.accepted(model_id, name, instance.now_ms)
            instance.routes.note_loaded(model_id, name)
        else:
            self.reservations.release(model_id, name)
        return outcome


def _load_for_peer(
    peer: "Instance",
    model: Model,
    *,
    last_used_ms: int,
    urgent: bool,
    size: KnownSize,
    company: Company,
) -> Generator[Any, Any, LoadOutcome]:
    record = peer.client.model(model.model_id)
    if not size.learned and record is not None:
        size = KnownSize(learned=record.size_units)
    outcome: LoadOutcome = yield peer.loader.load(
        model, last_used_ms=last_used_ms, urgent=urgent, size=size, company=company
    )
    return outcome


def _company(attempt: Attempt) -> Company:
    return Company(frozenset(attempt.beside), attempt.copies, attempt.replaced)
