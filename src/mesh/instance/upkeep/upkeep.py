"""When what is looked after is looked after."""

import logging
from collections.abc import Coroutine
from typing import Any

from mesh.instance.periodic import repeat
from mesh.instance.settings import UpkeepSettings
from mesh.instance.upkeep.janitor import Janitor
from mesh.instance.upkeep.leases import LeaselessInstances
from mesh.instance.upkeep.reaper import Reaper
from mesh.instance.upkeep.second_homes import SecondHomes
from mesh.instance.upkeep.sources import Sources
from mesh.registry import Election

log = logging.getLogger(__name__)

#: The janitor's first run follows so soon after the start, seconds; as in KServe ModelMesh.
FIRST_TIDYING_S = 1.0


class Upkeep:
    """The loops of one instance.

    Args:
        janitor: None for a pure router, which has no copies.
        second_homes: None where none are looked for.
        leaseless: None while a registry is moved.
        sources: None where models' data in storage is not looked at again.
    """

    def __init__(
        self,
        settings: UpkeepSettings,
        election: Election,
        reaper: Reaper,
        janitor: Janitor | None,
        second_homes: SecondHomes | None,
        leaseless: LeaselessInstances | None,
        sources: Sources | None,
    ) -> None:
        self._settings = settings
        self._election = election
        self._reaper = reaper
        self._janitor = janitor
        self._second_homes = second_homes
        self._leaseless = leaseless
        self._sources = sources

    def loops(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """Returns: what is to be run until the instance ends, each with its name."""
        self._reaper.start()
        found: list[tuple[str, Coroutine[Any, Any, None]]] = [("reaper", self._reap())]
        if self._janitor is not None:
            every_s = self._settings.janitor_interval_s
            tidying = repeat("the janitor", every_s, self._janitor.run, first_after_s=FIRST_TIDYING_S)
            found.append(("janitor", tidying))
        if self._sources is not None:
            looking = repeat("the look at sources", self._settings.source_interval_s, self._sources.run)
            found.append(("sources", looking))
        return found

    async def close(self) -> None:
        """Ends what was begun beside the loops."""
        if self._second_homes is not None:
            await self._second_homes.close()

    async def _reap(self) -> None:
        delay_s = float(self._settings.reaper_delay_s)
        if self._leaseless is None:
            delay_s /= 2
        while True:
            await self._election.wait(True)
            pause_s = delay_s
            while await self._leads_on_for(pause_s):
                pause_s = float(self._settings.reaper_interval_s)
                try:
                    await self._reaper.run()
                    if self._leaseless is not None:
                        await self._leaseless.run()
                except Exception:
                    log.exception("the reaper failed and runs again in %g s", pause_s)

    async def _leads_on_for(self, seconds: float) -> bool:
        try:
            await self._election.wait(False, timeout=seconds)
        except TimeoutError:
            return True
        return False
