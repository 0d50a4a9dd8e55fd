"""Compares the copies here with the models' records, in case an event was missed."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from mesh.instance.loader import Loader
from mesh.instance.registration import Registration
from mesh.placement import RemovalReason
from mesh.placement.upkeep import Tidying, TidyingFigures, TidyingKind, tidy
from mesh.registry import Registry

log = logging.getLogger(__name__)

#: Records looked at before requests get their turn.
AT_A_TIME = 2_000


class Janitor:
    """Of one instance.

    Args:
        is_leaving: whether copies here are being handed over, so that records rightly lose them.
        now_ms: epoch milliseconds.
        figures: when a difference is one.
    """

    def __init__(
        self,
        instance_id: str,
        registry: Registry,
        registration: Registration,
        loader: Loader,
        is_leaving: Callable[[], bool],
        now_ms: Callable[[], int],
        figures: TidyingFigures,
    ) -> None:
        self._instance_id = instance_id
        self._registry = registry
        self._registration = registration
        self._loader = loader
        self._is_leaving = is_leaving
        self._now_ms = now_ms
        self._figures = figures

    async def run(self) -> None:
        """Compares once, a part at a time."""
        if not self._registry.joined:
            # What the records say meanwhile is a memory; what is loaded here is true.
            return
        done: Counter[str] = Counter()
        models, own_id = self._registry.models, self._instance_id
        here = {copy.model_id for copy in self._loader.copies()}
        ids = list(here.union(models))
        for start in range(0, len(ids), AT_A_TIME):
            if self._is_leaving():
                return
            now_ms = self._now_ms()
            for model_id in ids[start : start + AT_A_TIME]:
                record = models.get(model_id)
                if (
                    record is not None
                    and model_id not in here
                    and own_id not in record.copies
                    and own_id not in record.failures
                ):
                    continue
                copy = self._loader.cache.copy(model_id)
                for tidying in tidy(own_id, model_id, copy, record, now_ms, self._figures):
                    if self._carry_out(tidying):
                        done[tidying.kind.value] += 1
            await asyncio.sleep(0)
        done.pop(TidyingKind.NOTE_USE.value, None)
        if done:
            log.warning("records and copies differed and were brought in step", extra=dict(done))

    def _carry_out(self, tidying: Tidying) -> bool:
        model_id, registration = tidying.model_id, self._registration
        match tidying.kind:
            case TidyingKind.UNLOAD:
                self._loader.remove(model_id, RemovalReason.UNREGISTERED)
            case TidyingKind.ENTER:
                if registration.is_resigning(model_id):
                    return False
                registration.restore_copy(model_id, tidying.time_ms)
            case TidyingKind.CORRECT_START:
                registration.correct_start(model_id, tidying.time_ms)
            case TidyingKind.TAKE_OUT:
                registration.remove_copy(model_id)
            case TidyingKind.FORGET_FAILURE:
                registration.remove_failure(model_id)
            case TidyingKind.NOTE_USE:
                registration.note_use(model_id, tidying.time_ms)
        return True
