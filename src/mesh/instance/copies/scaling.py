"""Adds copies of the models that this instance has, for load and for recurring use."""

import asyncio
from collections.abc import Callable

from mesh.dataplane import Usage
from mesh.instance.copies.facts import CopyFacts
from mesh.instance.copies.growing import Growing
from mesh.instance.errors import MeshError
from mesh.instance.peers import Peer, Peers
from mesh.placement.copies import (
    AHEAD_MS,
    BUSY_COPY,
    Cause,
    Demands,
    Growth,
    Overload,
    Sample,
    ScalingFigures,
    for_load,
    for_recurring_use,
    not_as_busy,
)
from mesh.registry import ModelRecord, Registry


class Scaling:
    """Watches what the copies here are asked.

    Args:
        demands: takes what they are asked.
        max_concurrency: requests that the copy of a model takes at once; 0 for any number.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        registry: Registry,
        facts: CopyFacts,
        demands: Demands,
        growing: Growing,
        figures: Callable[[], ScalingFigures],
        peers: Peers,
        max_concurrency: Callable[[str], int],
        now_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._facts = facts
        self._demands = demands
        self._growing = growing
        self._figures = figures
        self._peers = peers
        self._max_concurrency = max_concurrency
        self._now_ms = now_ms
        self._asking: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Follows the records."""
        self._registry.models.subscribe(self._changed)

    def note(self, usage: Usage) -> None:
        """Takes in what a copy here was asked since the last time; adds copies at once where that is far too much."""
        overload = self._demands.note(
            usage.model_id,
            Sample(
                usage.requests,
                usage.in_flight,
                usage.queued,
                usage.answers,
                usage.service_ms,
                self._max_concurrency(usage.model_id),
            ),
            self._now_ms(),
        )
        if overload is not None:
            self._relieve(overload)

    def load_ended(self, model_id: str, loaded: bool) -> None:
        """A load ended here."""
        if loaded:
            self._demands.loaded(model_id, self._now_ms())

    async def look(self) -> None:
        """Looks at the rates of the last interval, and at uses that recur."""
        overloads, recurring = self._demands.end_interval(self._now_ms())
        for overload in overloads:
            self._relieve(overload)
        for model_id in recurring:
            self._second_copy(model_id)

    def _relieve(self, overload: Overload) -> None:
        record = self._registry.models.get(overload.model_id)
        if record is None or not self._growing.may_grow(overload.model_id):
            return
        now = self._facts.now(overload.model_id, record)
        if now.loading:
            # What is asked now is not what will be asked of each once they are there.
            self._demands.copies_changed(overload.model_id, self._now_ms())
        elif overload.cause is Cause.RATE and now.loaded > 1:
            if overload.model_id not in self._asking:
                self._asking.add(overload.model_id)
                task = asyncio.get_running_loop().create_task(self._relieve_together(overload, record))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        else:
            self._grow(for_load(overload, now))

    async def _relieve_together(self, overload: Overload, record: ModelRecord) -> None:
        """Relieves a copy beside which there are others, by what is asked of all of them."""
        model_id = overload.model_id
        try:
            peers = [peer for other in record.copies if (peer := self._peers.get(other)) is not None]
            rates = await asyncio.gather(*(_rate_at(peer, model_id) for peer in peers))
            now_record = self._registry.models.get(model_id)
            if now_record is None or not self._growing.may_grow(model_id):
                return
            self._grow(for_load(overload, self._facts.now(model_id, now_record), sum(rates)))
        finally:
            self._asking.discard(model_id)

    def _grow(self, growth: Growth | None) -> None:
        here = self._facts.own_view()
        if growth is not None and here is not None:
            limited = self._max_concurrency(growth.model_id) > 0
            one_copy = BUSY_COPY if limited else self._figures().rpm_threshold
            self._growing.grow(
                growth,
                last_used_ms=self._now_ms() + AHEAD_MS,
                conditions=[not_as_busy(here.requests_per_minute, one_copy)],
            )

    def _second_copy(self, model_id: str) -> None:
        record = self._registry.models.get(model_id)
        # Most models that are used again and again have two copies by now.
        if record is None or len(record.copies) != 1 or not self._growing.may_grow(model_id):
            return
        now_ms = self._now_ms()
        now, stats = self._facts.now(model_id, record), self._facts.stats(record.type)
        growth = for_recurring_use(model_id, now, stats, now_ms, self._figures())
        if growth is not None and self._facts.own_view() is not None:
            self._growing.grow(growth, last_used_ms=now_ms)

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, model_id: str, old: ModelRecord | None, new: ModelRecord | None) -> None:
        if old is None or new is None:
            return
        if old.copies.keys() != new.copies.keys() or old.ready != new.ready:
            self._demands.copies_changed(model_id, self._now_ms())


async def _rate_at(peer: Peer, model_id: str) -> int:
    """Requests per minute of a peer's copy; one that does not answer takes none."""
    try:
        return (await peer.copy_status(model_id)).requests_per_minute
    except MeshError:
        return 0
