"""Sends metrics to a StatsD server, over UDP: nothing waits for it, and nobody minds where it is not there."""

import asyncio
import logging
import socket
from typing import Any

from mesh.instance.metrics.collector import InstanceCollector
from mesh.instance.metrics.statsd import Reading, Statsd, packets

log = logging.getLogger(__name__)


class StatsdSender:
    """Sends what one instance counts.

    Args:
        full_method_names: tell methods with their package and service.
        legacy: with the older names.

    Raises:
        OSError: the host is not known.
    """

    def __init__(
        self,
        collector: InstanceCollector,
        host: str,
        port: int,
        *,
        full_method_names: bool = False,
        legacy: bool = False,
    ) -> None:
        self._collector = collector
        self._full_method_names = full_method_names
        self._statsd = Statsd(legacy=legacy)
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._address: Any = address
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)

    async def run(self, every_s: float) -> None:
        """Sends until cancelled, and then what is left."""
        try:
            while True:
                await asyncio.sleep(every_s)
                self.send()
        finally:
            self.send()
            self._socket.close()

    def send(self) -> None:
        """Sends what happened since the last time."""
        for packet in packets(self._statsd.lines(self._read())):
            try:
                self._socket.sendto(packet, self._address)
            except OSError as error:
                # The next interval has other things to tell.
                log.debug("metrics are not sent to StatsD at %s: %s", self._address, error)

    def _read(self) -> Reading:
        collector = self._collector
        return Reading(
            collector.dataplane.take_histograms(full_method_names=self._full_method_names),
            collector.metrics.counts(),
            {name: value for name, (_, value) in collector.gauge_values().items()},
        )
