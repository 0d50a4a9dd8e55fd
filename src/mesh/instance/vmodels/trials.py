"""Keeps canaries and shadows loaded, on the instance that leads."""

import asyncio
import logging
from collections.abc import Callable

from mesh.instance.errors import MeshError
from mesh.instance.placer import Placer
from mesh.instance.routes import Routes
from mesh.instance.vmodels.records import vmodel_of
from mesh.registry import Registry

log = logging.getLogger(__name__)


class Trials:
    """Has a copy loaded of each model on trial that has none. They get no request without one, so none would load them.

    Where the active model has no copy either, nobody uses the vmodel: what was unloaded for being idle stays so.

    Args:
        now_ms: epoch milliseconds.
    """

    def __init__(self, registry: Registry, placer: Placer, routes: Routes, now_ms: Callable[[], int]) -> None:
        self._registry = registry
        self._placer = placer
        self._routes = routes
        self._now_ms = now_ms
        self._loads: dict[str, asyncio.Task[None]] = {}

    async def review(self) -> None:
        """Looks at all vmodels once; loads go on after it."""
        if not self._registry.election.leading:
            return
        wanted: dict[str, str] = {}
        for vmodel_id, record in self._registry.vmodels.items():
            if not record.canary and not record.shadow:
                continue
            vmodel = vmodel_of(record)
            if not self._has_copy(vmodel.active):
                continue
            for portion in (vmodel.canary, vmodel.shadow):
                if portion is not None:
                    wanted[portion.model] = vmodel_id
        for model_id, vmodel_id in wanted.items():
            if model_id not in self._registry.models or model_id in self._loads or self._has_copy(model_id):
                continue
            load = self._load(model_id, vmodel_id)
            self._loads[model_id] = asyncio.get_running_loop().create_task(load)

    def _has_copy(self, model_id: str) -> bool:
        model = self._registry.models.get(model_id)
        return model is not None and any(map(self._routes.live, model.copies))

    async def _load(self, model_id: str, vmodel_id: str) -> None:
        try:
            await self._placer.ensure_copy(model_id, last_used_ms=self._now_ms(), urgent=False)
        except MeshError as error:
            log.warning(
                "the model is on trial and cannot be loaded: %s",
                error.message,
                extra={"model": model_id, "vmodel": vmodel_id},
            )
        finally:
            del self._loads[model_id]

    async def close(self) -> None:
        """Waits for no load any more."""
        tasks = tuple(self._loads.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
