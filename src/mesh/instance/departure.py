"""Hands this instance's models over before it leaves."""

import asyncio
import logging

from mesh.instance.errors import MeshError
from mesh.instance.loader import Loader
from mesh.instance.placer import Placer
from mesh.instance.registration import Registration
from mesh.placement import CopyState

log = logging.getLogger(__name__)

#: Models handed over at a time; as KServe ModelMesh has it.
AT_ONCE = 10
#: A model that was used longer ago than this is not handed over, milliseconds; as KServe ModelMesh has it.
USED_WITHIN_MS = 3_600_000


async def hand_over(loader: Loader, placer: Placer, registration: Registration, now_ms: int) -> None:
    """Has other instances load what was used lately, the newest use first.

    Each copy here serves on, and stays in the registry, until another instance has the model (make before break).
    """
    loader.read_usage()
    copies = [
        copy
        for copy in loader.copies()
        if copy.state in {CopyState.LOADED, CopyState.SIZING}
        and (copy.last_used_ms > now_ms - USED_WITHIN_MS or copy.in_flight)
    ]
    copies.sort(key=lambda copy: copy.last_used_ms, reverse=True)
    slots = asyncio.Semaphore(AT_ONCE)

    async def hand_over_one(model_id: str, last_used_ms: int) -> None:
        async with slots:
            try:
                await placer.copy_elsewhere(model_id, last_used_ms=last_used_ms)
            except MeshError as error:
                log.warning("not handed over: %s", error, extra={"model": model_id})
                return
        registration.remove_copy(model_id)

    await asyncio.gather(*(hand_over_one(copy.model_id, copy.last_used_ms) for copy in copies))
