"""Brings back what an earlier process of this instance had, where this one starts without the registry.

The peers go on sending requests for those models here: they cannot see that the process is another one.
"""

import asyncio
import logging

from mesh.instance.loader import Loader
from mesh.instance.placer import model_info
from mesh.instance.registration import Registration
from mesh.registry import Registry

log = logging.getLogger(__name__)


async def resume(instance_id: str, registry: Registry, loader: Loader, registration: Registration) -> None:
    """Loads the models that list this instance, the newest use first; those that fail are taken out of the record."""
    own = [
        (record.last_used, model_id, record)
        for model_id, record in registry.models.items()
        if instance_id in record.copies
    ]
    own.sort(reverse=True, key=lambda copy: copy[:2])
    log.info("loading again what this instance had", extra={"models": len(own)})
    loads = [
        loader.load(
            model_info(model_id, record),
            last_used_ms=last_used_ms,
            urgent=False,
            why="the instance had it before it started without the registry",
        )
        for last_used_ms, model_id, record in own
    ]
    for load, (_, model_id, _) in zip(loads, own, strict=True):
        if not (await asyncio.shield(load)).loaded:
            registration.remove_copy(model_id)
