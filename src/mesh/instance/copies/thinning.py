"""Takes away and moves copies of this instance that are better not here."""

from collections.abc import Callable

from mesh.instance.copies.facts import CopyFacts
from mesh.instance.copies.leaving import Leaving
from mesh.instance.copies.reports import CopyReports
from mesh.instance.errors import MeshError
from mesh.instance.placer import Placer
from mesh.placement import InstanceFilter, InstanceView, PlacementRequest
from mesh.placement.copies import (
    CopyHere,
    Move,
    MoveKind,
    ScalingFigures,
    SurplusKind,
    find_surplus,
    has_too_much,
    plan_moves,
)
from mesh.registry import Registry, SessionState

#: What one look has found is carried out for so long, milliseconds: with the registry away every change takes seconds,
#: and what is left is better judged anew.
LOOK_HOLDS_MS = 5_000
#: Rates are those of the last minute: what moving for load has done is not seen before, milliseconds.
LOAD_SEEN_MS = 70_000
#: Surplus that is none any more once the copy is used.
_UNUSED = frozenset({SurplusKind.IDLE, SurplusKind.SPARE})


class Thinning:
    """Looks which copies here are too many, and which belong elsewhere.

    Args:
        rebalance: whether copies are moved.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        registry: Registry,
        facts: CopyFacts,
        placer: Placer,
        leaving: Leaving,
        reports: CopyReports,
        figures: Callable[[], ScalingFigures],
        now_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._facts = facts
        self._placer = placer
        self._leaving = leaving
        self._reports = reports
        self._figures = figures
        self._now_ms = now_ms
        self._load_seen_ms = 0

    async def take_away(self) -> None:
        """Takes away what is too much."""
        here, now_ms = self._facts.own_view(), self._now_ms()
        if here is None or not self._is_connected:
            return
        places, figures = self._facts.places(), self._figures()
        copies = self._facts.here(now_ms, lone=figures.idle_ttl_ms > 0)
        by_id = {copy.model_id: copy for copy in copies}
        for surplus in find_surplus(copies, here, places, now_ms, figures):
            if self._now_ms() > now_ms + LOOK_HOLDS_MS:
                return
            copy = by_id[surplus.model_id]
            # While others before it were taken away, it may have come into use again.
            if await self._leaving.leave(
                surplus.model_id,
                list(copy.others),
                keep=surplus.keep,
                pause_ms=surplus.pause_ms,
                unused_since_ms=copy.last_used_ms if surplus.kind in _UNUSED else None,
            ):
                self._reports.taken_away(surplus)

    async def rebalance(self) -> None:
        """Moves a few copies to instances with more room, or less to do."""
        here, now_ms = self._facts.own_view(), self._now_ms()
        if here is None or not self._is_connected:
            return
        places = self._facts.places()
        if not has_too_much(here, places):
            return
        copies = {copy.model_id: copy for copy in self._facts.here(now_ms, lone=True)}
        for move in plan_moves(tuple(copies.values()), here, places, now_ms):
            if move.kind is MoveKind.LOAD:
                if now_ms < self._load_seen_ms:
                    return
                self._load_seen_ms = self._now_ms() + LOAD_SEEN_MS
            await self._move(move, copies[move.model_id])

    @property
    def _is_connected(self) -> bool:
        """Whether records can be changed: without that nothing goes, and what is known of others grows old."""
        return self._registry.session.state is SessionState.LIVE

    async def _move(self, move: Move, copy: CopyHere) -> None:
        before = len(copy.others) + 1
        try:
            await self._placer.raise_copies(
                move.model_id,
                before + 1,
                last_used_ms=copy.last_used_ms,
                why=move.message,
                conditions=[_only(move.targets)],
            )
        except MeshError:
            # What was decided is in the ring; the next look finds another place or none.
            return
        record = self._registry.models.get(move.model_id)
        others = [*copy.others, *move.targets] if record is None else [*record.copies]
        if await self._leaving.leave(move.model_id, others, keep=before):
            self._reports.moved(move)


def _only(targets: frozenset[str]) -> InstanceFilter:
    def refuse(view: InstanceView, _: PlacementRequest) -> str:
        return "" if view.instance_id in targets else "has neither more room nor less to do"

    return refuse
