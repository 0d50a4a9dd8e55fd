"""Tells the other instances how this one is."""

import asyncio
import logging
from collections.abc import Callable

from mesh.registry import InstanceRecord, Registry, RegistryError

log = logging.getLogger(__name__)

#: Two writes are at least so far apart, seconds, so that a burst of loads is one write.
MIN_INTERVAL_S = 0.1
#: Without a sign that something changed the record is looked at so often, seconds.
LOOK_INTERVAL_S = 1.0


class Publisher:
    """Writes this instance's record when it has changed enough to matter to others.

    Args:
        current: the record as it should be now.
        is_significant: the written record, the current one, milliseconds since the last write; whether to write.
        now_ms: epoch milliseconds; never goes back.
    """

    def __init__(
        self,
        registry: Registry,
        current: Callable[[], InstanceRecord],
        is_significant: Callable[[InstanceRecord, InstanceRecord, int], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._current = current
        self._is_significant = is_significant
        self._now_ms = now_ms
        self._changed = asyncio.Event()
        self._written: InstanceRecord | None = None
        self._written_ms = 0
        self._withdrawn = False

    def changed(self) -> None:
        """Something may have changed: look at the record soon."""
        self._changed.set()

    async def publish(self) -> None:
        """Writes the record now.

        The registry keeps what it could not write and writes it as soon as it can.
        """
        if self._withdrawn:
            return
        record = self._current()
        self._written, self._written_ms = record, self._now_ms()
        try:
            await self._registry.publish(record)
        except RegistryError as error:
            log.warning("instance record not written yet: %s", error)

    async def withdraw(self) -> None:
        """Takes the record out of the registry; it is written no more."""
        self._withdrawn = True
        try:
            await self._registry.withdraw()
        except RegistryError as error:
            log.warning("the record of this instance is left to the end of its session: %s", error)

    async def run(self) -> None:
        """Publishes when that is due, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            since_ms = self._now_ms() - self._written_ms
            if self._written is None or self._is_significant(self._written, self._current(), since_ms):
                await self.publish()
                await asyncio.sleep(MIN_INTERVAL_S)
