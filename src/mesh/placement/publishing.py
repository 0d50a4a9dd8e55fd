"""When an instance has changed so much that the others should know."""

from typing import Protocol

from mesh.placement.view import NEVER_USED_MS

#: What does not steer the next placements waits for so long after a write, milliseconds.
_PATIENCE_MS = 2_000
#: After so long without a write any change is worth one, milliseconds; as KServe ModelMesh has it.
_STALE_MS = 160_000


class PublishedInstance(Protocol):
    """What others learn of an instance. Memory in units of 8 KiB, times in epoch milliseconds."""

    @property
    def capacity(self) -> int:
        """Units for models, without the unload buffer."""

    @property
    def used(self) -> int:
        """Units of them in use."""

    @property
    def count(self) -> int:
        """Entries of its cache."""

    @property
    def oldest_use(self) -> int:
        """Last use of its oldest entry; `NEVER_USED_MS` where it has none."""

    @property
    def loading_threads(self) -> int:
        """Loads that may run at once."""

    @property
    def loads_in_progress(self) -> int:
        """Loads queued, waiting and running."""

    @property
    def request_rate(self) -> int:
        """Requests per minute."""

    @property
    def type_rules(self) -> str:
        """Equal for instances with equal type constraints."""

    @property
    def shutting_down(self) -> bool:
        """It takes no more models."""


def is_significant_change(written: PublishedInstance, current: PublishedInstance, since_ms: int) -> bool:
    """Tells whether the record is to be written anew.

    The thresholds are those of KServe ModelMesh, with two differences, for the others would otherwise place models
    by what was true long ago: what decides where the next model goes (memory, loads) is worth a write at once
    and by less, and nothing that is significant is ever skipped for having come too early.

    Args:
        written: the record as last written.
        current: the record as it would be written now.
        since_ms: milliseconds since the last write.
    """
    if written == current:
        return False
    return (
        since_ms > _STALE_MS
        or _steers_placements(written, current)
        or (since_ms >= _PATIENCE_MS and _informs(written, current))
    )


def _steers_placements(written: PublishedInstance, current: PublishedInstance) -> bool:
    threads = current.loading_threads
    loads, loads_written = current.loads_in_progress, written.loads_in_progress
    return (
        written.shutting_down != current.shutting_down
        or abs(current.capacity - written.capacity) * 50 > written.capacity
        or abs(current.used - written.used) * 50 > current.capacity
        or _nearly_full(written) != _nearly_full(current)
        or written.loading_threads != threads
        or (loads == 0) != (loads_written == 0)
        or (loads >= threads) != (loads_written >= threads)
        or abs(loads - loads_written) >= 3
    )


def _informs(written: PublishedInstance, current: PublishedInstance) -> bool:
    models = abs(current.count - written.count)
    rate = abs(current.request_rate - written.request_rate)
    return (
        models >= 10
        or models * 100 >= 15 * max(1, written.count)
        or abs(current.used - written.used) * 5 >= max(1, written.used)
        or (rate >= 100 and rate * 10 > written.request_rate)
        or (written.oldest_use >= NEVER_USED_MS) != (current.oldest_use >= NEVER_USED_MS)
        or abs(current.oldest_use - written.oldest_use) >= 20_000
        or written.type_rules != current.type_rules
    )


def _nearly_full(instance: PublishedInstance) -> bool:
    return (instance.capacity - instance.used) * 20 < instance.capacity
