"""Logs that there were payloads, without what is in them."""

import logging
from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import Metric

from mesh.payload.payload import Payload
from mesh.payload.processor import InvalidProcessor, Options

log = logging.getLogger(__name__)


class Logger:
    """The processor of ``logger:``, as in KServe ModelMesh: a line for each payload."""

    async def process(self, batch: Sequence[Payload]) -> None:
        """Logs each."""
        if not log.isEnabledFor(logging.INFO):
            return
        for payload in batch:
            log.info(
                "payload",
                extra={
                    "payload_id": payload.id,
                    "kind": payload.kind,
                    "model": payload.model_id,
                    "vmodel": payload.vmodel_id,
                    "method": payload.method,
                    "status": payload.status or "",
                },
            )

    async def close(self, timeout_s: float) -> None:
        """Has nothing to close."""

    def collect(self) -> Iterable[Metric]:
        """Has no families of its own."""
        return ()


def open_logger(uri: str, options: Options) -> Logger:
    """Makes the processor of ``logger:``; raises `InvalidProcessor` where it is given members, of which it has none."""
    if options.members:
        raise InvalidProcessor(
            f"payload processor {uri!r} takes no options, but has {', '.join(options.members)}"
        )
    return Logger()
