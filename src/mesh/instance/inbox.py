"""Fetches what the data plane has to say as soon as there is something."""

import asyncio

from mesh.dataplane import DataPlane
from mesh.instance.asks import Asks
from mesh.instance.calls import Calls
from mesh.instance.payloads import Payloads


class Inbox:
    """Hands the data plane's asks and calls to those who answer them, and tells those who process payloads."""

    def __init__(self, dataplane: DataPlane, asks: Asks, calls: Calls, payloads: Payloads) -> None:
        self._dataplane = dataplane
        self._asks = asks
        self._calls = calls
        self._payloads = payloads

    def start(self) -> None:
        """Begins to fetch; needs a running event loop."""
        asyncio.get_running_loop().add_reader(self._dataplane.event_fd, self._take)

    def _take(self) -> None:
        self._asks.take()
        self._calls.take()
        self._payloads.take()

    async def close(self) -> None:
        """Fetches and answers no more."""
        asyncio.get_running_loop().remove_reader(self._dataplane.event_fd)
        await self._asks.close()
        await self._calls.close()
