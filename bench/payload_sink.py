"""A processor of payloads that keeps what it is given in memory, as little as anyone can do with it."""

from collections import deque
from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import Metric

from mesh.payload import Options, Payload


class Memory:
    """Keeps the newest batches, whole."""

    def __init__(self, batches: int) -> None:
        self._batches: deque[Sequence[Payload]] = deque(maxlen=batches)

    async def process(self, batch: Sequence[Payload]) -> None:
        """Keeps one more."""
        self._batches.append(batch)

    async def close(self, timeout_s: float) -> None:
        """Forgets them."""
        self._batches.clear()

    def collect(self) -> Iterable[Metric]:
        """Has none."""
        return ()


class Reader(Memory):
    """Reads every attribute of each payload, as a sink has to that writes them somewhere."""

    async def process(self, batch: Sequence[Payload]) -> None:
        """Reads, and keeps nothing."""
        for payload in batch:
            _ = (
                payload.id,
                payload.kind,
                payload.model_id,
                payload.vmodel_id,
                payload.method,
                payload.status,
            )
            _ = (payload.metadata, payload.data, payload.time)


def open_memory(uri: str, options: Options) -> Memory:
    """Of ``memory:``; its option is how many batches it keeps."""
    return Memory(int(options.members.get("batches", 20)))


def open_reader(uri: str, options: Options) -> Reader:
    """Of ``reader:``."""
    return Reader(0)
