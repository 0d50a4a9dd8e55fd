"""Adds copies of the models that a simulated instance has, where they are asked too much or again and again."""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from mesh.placement import CopyPolicy, InstanceFilter
from mesh.placement.copies import (
    AHEAD_MS,
    CopiesNow,
    Demands,
    Growth,
    Overload,
    Sample,
    ScalingFigures,
    for_load,
    for_recurring_use,
    not_as_busy,
)
from mesh.registry import ModelRecord
from mesh.simulation.models import Copy, Model

if TYPE_CHECKING:
    from mesh.simulation.instance import Instance

#: What one copy is asked is looked at anew so long after there are more; as in an instance.
SETTLE_MS = 2_000
#: Where no copy could be added, it is tried again after this, and after each further time twice as long, up to the
#: second; as in an instance.
TRY_AGAIN_MS = (10_000, 300_000)


class Scaling:
    """Watches what the copies of one simulated instance are asked."""

    def __init__(self, instance: "Instance") -> None:
        self._instance = instance
        self._figures = ScalingFigures()
        self._demands = Demands(lambda: self._figures)
        self._interval_ms = instance.now_ms
        self._sampling = False
        self._growing: set[str] = set()
        self._not_before: dict[str, int] = {}
        self._pauses: dict[str, int] = {}

    def begin(self) -> None:
        """Something is used: samples are taken until nothing is."""
        every_us = self._instance.world.scenario.sample_us
        if every_us and not self._sampling:
            self._sampling = True
            self._instance.after(every_us, self._sample)

    def _sample(self) -> None:
        self._sampling = False
        instance = self._instance
        instance.loader.read_usage()
        now_ms = instance.now_ms
        if now_ms - self._interval_ms >= self._figures.interval_ms:
            self._interval_ms = now_ms
            overloads, recurring = self._demands.end_interval(now_ms)
            for overload in overloads:
                self._relieve(overload)
            for model_id in recurring:
                self._second_copy(instance.world.model_of[model_id])

    def note(self, copy: Copy) -> None:
        """Takes in what a copy was asked since the last sample."""
        requests, copy.requests = copy.requests, 0
        service_ms = requests * copy.model.service_us / 1_000
        sample = Sample(requests, copy.in_flight(self._instance.agenda.now_us), 0, requests, service_ms)
        overload = self._demands.note(copy.model.model_id, sample, self._instance.now_ms)
        if overload is not None:
            self._relieve(overload)

    def copies_changed(self, model_id: str) -> None:
        """The model has other copies than before."""
        self._demands.copies_changed(model_id, self._instance.now_ms)

    def _may_grow(self, model_id: str) -> bool:
        return model_id not in self._growing and self._instance.now_ms >= self._not_before.get(model_id, 0)

    def _relieve(self, overload: Overload) -> None:
        instance, model_id = self._instance, overload.model_id
        record, here = instance.client.model(model_id), instance.presence.candidate()
        if record is None or here is None or not self._may_grow(model_id):
            return
        now = self._copies_now(instance.world.model_of[model_id], record)
        if now.loading:
            self.copies_changed(model_id)
        elif (growth := for_load(overload, now)) is not None:
            condition = not_as_busy(here.requests_per_minute, self._figures.rpm_threshold)
            self._grow(growth, instance.now_ms + AHEAD_MS, [condition])

    def _second_copy(self, model: Model) -> None:
        instance = self._instance
        record = instance.client.model(model.model_id)
        if record is None or len(record.copies) != 1 or not self._may_grow(model.model_id):
            return
        now, stats = self._copies_now(model, record), instance.seen.ranked.stats(model.type)
        growth = for_recurring_use(model.model_id, now, stats, instance.now_ms, self._figures)
        if growth is not None and instance.presence.candidate() is not None:
            self._grow(growth, instance.now_ms, [])

    def _copies_now(self, model: Model, record: ModelRecord) -> CopiesNow:
        instance = self._instance
        listed = {name for name in record.copies if instance.stays(name)}
        loaded = len(listed.intersection(instance.routes.usable(model).loaded))
        failed = sum(instance.stays(name) for name in record.failures.keys() - listed)
        possible = instance.seen.ranked.stats(record.type).instances - failed
        return CopiesNow(loaded, len(listed) - loaded, possible, CopyPolicy.from_members(record.policy))

    def _grow(self, growth: Growth, last_used_ms: int, conditions: Sequence[InstanceFilter]) -> None:
        self._growing.add(growth.model_id)
        self._instance.note(f"adds copies of {growth.model_id}: {growth.message}")
        self._instance.start(self._growth(growth, last_used_ms, conditions))

    def _growth(
        self, growth: Growth, last_used_ms: int, conditions: Sequence[InstanceFilter]
    ) -> Generator[Any, Any, None]:
        instance, model_id = self._instance, growth.model_id
        added = yield from instance.placer.raise_copies(
            instance.world.model_of[model_id], growth.copies, last_used_ms=last_used_ms, conditions=conditions
        )
        instance.world.report.copies_added += added
        if added:
            self._pauses.pop(model_id, None)
            pause_ms = SETTLE_MS
        else:
            first_ms, most_ms = TRY_AGAIN_MS
            pause_ms = self._pauses[model_id] = min(most_ms, 2 * self._pauses.get(model_id, first_ms // 2))
        self._not_before[model_id] = instance.now_ms + pause_ms
        self._growing.discard(model_id)
        self.copies_changed(model_id)
