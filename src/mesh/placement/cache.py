"""The state machine of one instance's copies and their memory."""

from dataclasses import dataclass
from enum import StrEnum

from mesh.placement.events import Event
from mesh.placement.instructions import Instruction
from mesh.placement.limits import CacheLimits


class CopyState(StrEnum):
    """Where a copy is in its life."""

    #: Being registered and its size predicted, or waiting for others to make room.
    NEW = "new"
    QUEUED = "queued"
    #: Has a loader and waits for memory that unloading models still hold.
    WAITING = "waiting"
    LOADING = "loading"
    #: Loaded and serving; its size is being measured.
    SIZING = "sizing"
    LOADED = "loaded"
    FAILED = "failed"
    UNLOADING = "unloading"


@dataclass(frozen=True, slots=True)
class CopyView:
    """One copy, for people and for the peers that ask. Sizes in units of 8 KiB, times in epoch milliseconds.

    Attributes:
        since_ms: when its load was asked for; for an unloading one, when it left the cache.
        in_flight: requests as of the data plane's last report.
        why: why it is here, or why it leaves.
        message: of a failure.
    """

    model_id: str
    state: CopyState
    units: int
    last_used_ms: int
    since_ms: int
    in_flight: int = 0
    why: str = ""
    message: str = ""


class LocalCache:
    """The copies of one instance: events in, instructions out.

    Holds no clock and does nothing by itself: the shell sends what happened to `handle`, together with the time,
    and carries out what comes back, in order. An answer may be sent while instructions of the same call are still
    to be carried out.
    """

    def __init__(self, limits: CacheLimits) -> None:
        self.limits = limits

    def handle(self, event: Event, now_ms: int) -> list[Instruction]:
        """Takes one event in.

        Args:
            event: what happened.
            now_ms: epoch milliseconds; never less than in an earlier call.

        Returns:
            what is to be done, in order.
        """
        raise NotImplementedError

    @property
    def capacity_units(self) -> int:
        """What the cache may hold: without the unload buffer and without lost memory."""
        raise NotImplementedError

    @property
    def used_units(self) -> int:
        """What its entries hold or will hold; models being unloaded not included."""
        raise NotImplementedError

    @property
    def unloading_units(self) -> int:
        """Held by models that have left the cache and are not unloaded yet."""
        raise NotImplementedError

    @property
    def deficit_units(self) -> int:
        """By how much the runtime is over its capacity, after a model turned out larger than predicted."""
        raise NotImplementedError

    @property
    def lost_units(self) -> int:
        """Held by models that cannot be unloaded."""
        raise NotImplementedError

    @property
    def oldest_used_ms(self) -> int:
        """Last use of the oldest entry; `NEVER_USED_MS` without entries."""
        raise NotImplementedError

    @property
    def loads_in_progress(self) -> int:
        """Queued, waiting and running."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Entries, failed ones included and unloading ones not."""
        raise NotImplementedError

    def copy(self, model_id: str) -> CopyView | None:
        """Returns: what is known of the model here, or None. An entry goes before a predecessor's unload."""
        raise NotImplementedError

    def copies(self) -> list[CopyView]:
        """Returns: all entries, then the models being unloaded."""
        raise NotImplementedError
