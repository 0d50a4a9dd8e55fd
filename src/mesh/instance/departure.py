"""An instance leaves the mesh: others take over what it has before it goes."""

import asyncio
import logging
from collections.abc import Callable

from mesh.instance.errors import MeshError
from mesh.instance.loader import Loader
from mesh.instance.placer import Placer
from mesh.instance.registration import Registration
from mesh.placement import CopyPolicy, CopyState, CopyView, to_hand_over
from mesh.registry import Registry

log = logging.getLogger(__name__)

#: Models handed over at a time; as KServe ModelMesh has it.
AT_ONCE = 10
#: Between two looks at what is left to hand over, seconds.
LOOK_AGAIN_S = 0.25
#: Records that list copies here are cleaned within this, seconds; what is left then is the leader's to remove.
CLEAN_WITHIN_S = 3.0


class HandOver:
    """Has other instances load what this one has, the newest use first (make before break).

    Each copy here serves on, and stays in the registry, until another instance has the model.

    Args:
        now_ms: epoch milliseconds.

    Attributes:
        handed_over: models that another instance has now.
    """

    def __init__(
        self,
        registry: Registry,
        loader: Loader,
        placer: Placer,
        registration: Registration,
        now_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._loader = loader
        self._placer = placer
        self._registration = registration
        self._now_ms = now_ms
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tried: dict[str, int] = {}
        self.handed_over: set[str] = set()

    async def run(self) -> None:
        """Goes on until nothing is left that must be handed over; copies that are still loading are among it."""
        while True:
            self._loader.read_usage()
            copies = self._next()
            if copies:
                await asyncio.gather(*(self._one(copy) for copy in copies))
            elif not self._loader.cache.loads_in_progress:
                return
            await asyncio.sleep(LOOK_AGAIN_S)

    def _next(self) -> list[CopyView]:
        here = [copy for copy in self._loader.copies() if copy.model_id not in self.handed_over]
        return to_hand_over(
            here, filter(self._is_kept, (c.model_id for c in here)), self._tried, self._now_ms()
        )

    def _is_kept(self, model_id: str) -> bool:
        record = self._registry.models.get(model_id)
        return record is not None and CopyPolicy.from_members(record.policy).kept_copies > 0

    async def _one(self, copy: CopyView) -> None:
        async with self._slots:
            try:
                await self._placer.copy_elsewhere(copy.model_id, last_used_ms=copy.last_used_ms)
            except MeshError as error:
                log.warning("not handed over: %s", error, extra={"model": copy.model_id})
                self._tried[copy.model_id] = copy.last_used_ms
                return
        self.handed_over.add(copy.model_id)
        self._registration.remove_copy(copy.model_id)


async def clean_records(loader: Loader, registration: Registration) -> None:
    """Takes every copy and failed load here out of its model's record: nobody can reach this instance any more."""
    for copy in loader.copies():
        if copy.state is CopyState.FAILED:
            registration.remove_failure(copy.model_id)
        else:
            registration.remove_copy(copy.model_id)
    if not await registration.settle(CLEAN_WITHIN_S):
        log.warning("some records still list copies here; the leader removes them")
