"""A typed copy of one prefix of the store, kept in memory and up to date.

It lists the prefix, watches from the listing's revision, and lists anew on compaction and on a timer: a watch
alone is never trusted. While the store is away it keeps what it has.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Final, Generic, Literal, TypeVar

from mesh.registry.codecs import Codec
from mesh.registry.store import WRITE_TIMEOUT, Store

R = TypeVar("R")

RELIST_SECONDS = 600.0
"""Default time between two listings that repair what a watch may have missed."""


class _Keep(Enum):
    KEEP = "keep"


KEEP: Final = _Keep.KEEP
"""What a change function returns to leave the record as it is."""
Keep = Literal[_Keep.KEEP]

Subscriber = Callable[[str, R | None, R | None], None]
"""Is called with a record's id, the record before and after the change; None stands for absent."""


class Mirror(Mapping[str, R], Generic[R]):
    """The records of one prefix by id, readable without waiting.

    Args:
        store: that holds the records; it may be shared.
        prefix: of their keys; an id is a key without it.
        codec: reads and writes the values.
        relist_every: seconds between two listings that repair differences.
    """

    def __init__(
        self, store: Store, prefix: str, codec: Codec[R], *, relist_every: float = RELIST_SECONDS
    ) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Begins to mirror, in a task of its own; needs a running event loop."""

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until the first listing is complete.

        Raises:
            TimeoutError: it is not after `timeout` seconds; the text says what stands against it.
        """

    @property
    def ready(self) -> bool:
        """Whether the first listing is complete."""

    @property
    def lag(self) -> float:
        """Seconds since the mirror last knew to have every change; infinite before it is ready."""

    @property
    def invalid(self) -> Mapping[str, str]:
        """Ids of stored values that are no records, and why; such a record is absent here."""

    def __getitem__(self, record_id: str) -> R: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...

    def revision(self, record_id: str) -> int:
        """Returns the mod_revision of the record held, 0 where there is none."""

    def subscribe(self, subscriber: Subscriber[R], *, replay: bool = False) -> Callable[[], None]:
        """Has a function called at each change, in order and before anything else sees the next one.

        Args:
            subscriber: must be quick and raise nothing.
            replay: call it first for each record that is there, as if it had just appeared.

        Returns:
            A function that ends the subscription.
        """

    async def fetch(self, record_id: str, *, timeout: float = WRITE_TIMEOUT) -> R | None:
        """Reads a record from the store itself, and takes what it finds into the mirror.

        Raises:
            StoreUnavailable, StoreDenied: see `Store`.
            InvalidRecord: the stored value is no record.
        """

    async def update(
        self,
        record_id: str,
        change: Callable[[R | None], R | None | Keep],
        *,
        timeout: float = WRITE_TIMEOUT,
    ) -> R | None:
        """Changes one record by compare-and-swap; the mirror shows the result at once.

        Args:
            record_id: which.
            change: gets the current record or None, returns the wanted one, None to delete, or `KEEP`.
                It is called again with the fresh record after a conflict, so it must be free of effects;
                what it raises ends the update.
            timeout: seconds for all tries together.

        Returns:
            The record as it is now, None where there is none.

        Raises:
            StoreUnavailable, OutcomeUnknown, StoreDenied, StoreRefused: see `Store`.
            InvalidRecord: the stored value is no record.
        """

    async def close(self) -> None:
        """Stops mirroring; the records stay readable."""


async def update_together(
    records: "list[tuple[Mirror[object], str]]",
    change: Callable[[list[object | None]], list[object | None | Keep]],
    *,
    timeout: float = WRITE_TIMEOUT,
) -> list[object | None]:
    """Changes several records, of one or several mirrors of one store, in one transaction.

    As `Mirror.update`, with lists in place of single records, in the order of `records`.
    """
    raise NotImplementedError
