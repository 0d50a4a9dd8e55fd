"""What happens to one instance's copies: the input of `LocalCache.handle`.

Events that answer an instruction carry its ``load_id``, so that a late answer about a load that was given up is
never taken for one about its successor.
"""

from enum import StrEnum

import msgspec

from mesh.placement.limits import CacheLimits
from mesh.placement.sizes import UNKNOWN_SIZE, KnownSize


class RemovalReason(StrEnum):
    """Why a copy is to go, other than to make room."""

    UNREGISTERED = "unregistered"
    SCALE_DOWN = "scale_down"
    DRAIN = "drain"
    #: The registry and the cache disagreed and the registry is right.
    RECONCILED = "reconciled"
    #: The model server is gone before it could load the model.
    RUNTIME_LOST = "runtime_lost"


class LoadRequested(msgspec.Struct, frozen=True, gc=False):
    """Someone wants a copy here. Ends in exactly one `ReportLoaded`, `ReportFailed` or `ReportRefused`.

    Requests for a model that is on its way already are merged with the first and share its report.

    Attributes:
        last_used_ms: epoch milliseconds of the use that asks for it; 0 means now.
        urgent: a request waits for it, so that it goes before preemptive loads.
        size: what is known of its size; where nothing is, it is predicted.
        why: for people, kept with the copy.
    """

    model_id: str
    last_used_ms: int = 0
    urgent: bool = False
    size: KnownSize = UNKNOWN_SIZE
    why: str = ""


class Registered(msgspec.Struct, frozen=True, gc=False):
    """The model's record in the registry now lists this instance (answer to `Register`)."""

    model_id: str
    load_id: int


class RegistrationRefused(msgspec.Struct, frozen=True, gc=False):
    """The instance is not to load the model after all: another one was first, or the registry failed.

    Attributes:
        message: for people.
        retry_elsewhere: the asker may place the load anew.
        enough_copies: the model may have no further copy, wherever that would be.
    """

    model_id: str
    load_id: int
    message: str
    retry_elsewhere: bool = True
    enough_copies: bool = False


class SizePredicted(msgspec.Struct, frozen=True, gc=False):
    """Answer to `PredictSize`; ``units`` is None where the runtime cannot tell, failed or took too long."""

    model_id: str
    load_id: int
    units: int | None


class LoadFinished(msgspec.Struct, frozen=True, gc=False):
    """The runtime has loaded the model and can be asked.

    Attributes:
        units: 0 where the size is to be measured.
        load_ms: how long the load took, all that another one would have to do again included; 0 for the time since
            `StartLoad`.
    """

    model_id: str
    load_id: int
    units: int
    load_ms: int = 0


class SizeMeasured(msgspec.Struct, frozen=True, gc=False):
    """Answer to `MeasureSize`; None keeps the predicted size."""

    model_id: str
    load_id: int
    units: int | None


class LoadFailed(msgspec.Struct, frozen=True, gc=False):
    """The load ended with an error.

    Attributes:
        code: number of the gRPC status code.
        message: for people.
        load_started: the runtime may hold memory for it; False where it was certainly never asked, for
            instance because the model data could not be fetched.
    """

    model_id: str
    load_id: int
    code: int
    message: str
    load_started: bool = True


class LoadTimedOut(msgspec.Struct, frozen=True, gc=False):
    """The load took longer than `StartLoad.timeout_ms` and was cancelled by the shell."""

    model_id: str
    load_id: int


class Used(msgspec.Struct, frozen=True, gc=False):
    """What the data plane tells of one local copy since it last told.

    Attributes:
        last_used_ms: epoch milliseconds of the newest request.
        in_flight: requests at the runtime or queued for it now.
    """

    model_id: str
    last_used_ms: int
    in_flight: int = 0


class ProtectionChanged(msgspec.Struct, frozen=True, gc=False):
    """How far a model is kept from being evicted, by its `CopyPolicy`; it need not be here.

    Attributes:
        priority: models of a lower one are evicted first.
        pinned: it is not evicted at all.
    """

    model_id: str
    priority: int
    pinned: bool


class SizeDeclared(msgspec.Struct, frozen=True, gc=False):
    """The model's owner has declared its size, or takes that back; it need not be here.

    Attributes:
        units: 0 where what the runtime tells is to count again.
    """

    model_id: str
    units: int


class RemoveRequested(msgspec.Struct, frozen=True, gc=False):
    """The copy is to go, loaded or on its way; unknown models are fine."""

    model_id: str
    reason: RemovalReason


class CopyClosed(msgspec.Struct, frozen=True, gc=False):
    """The data plane sends the copy no more requests and none is in flight (answer to `CloseCopy`)."""

    model_id: str


class CopyBusy(msgspec.Struct, frozen=True, gc=False):
    """Requests are in flight (answer to `CloseCopy`); unless it drains, the copy goes on as before."""

    model_id: str
    in_flight: int


class UnloadFinished(msgspec.Struct, frozen=True, gc=False):
    """The runtime has let go of the model; not knowing it counts too (answer to `StartUnload`)."""

    model_id: str


class UnloadFailed(msgspec.Struct, frozen=True, gc=False):
    """The runtime may still hold the model's memory (answer to `StartUnload`)."""

    model_id: str
    message: str = ""


class RuntimeLost(msgspec.Struct, frozen=True, gc=False):
    """The runtime answered a request that it does not know the model: the memory is free already.

    Attributes:
        asked_ms: when that request was sent, epoch milliseconds; a copy loaded since is another one. 0 where it was
            sent a moment ago.
    """

    model_id: str
    asked_ms: int = 0


class RuntimeRestarted(msgspec.Struct, frozen=True, gc=False):
    """The runtime has come back with no model loaded: all its memory is free, lost memory included.

    Loads under way are left to their own answers, which will be failures.
    """


class LimitsChanged(msgspec.Struct, frozen=True, gc=False):
    """The runtime has come back with other figures; what does not fit any more is evicted."""

    limits: CacheLimits


class ShutdownStarted(msgspec.Struct, frozen=True, gc=False):
    """No load is begun any more; those that have not reached the runtime are refused. Copies stay."""


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Time has passed; due where `WakeAt` says so, harmless at any other time."""


Event = (
    LoadRequested
    | Registered
    | RegistrationRefused
    | SizePredicted
    | LoadFinished
    | SizeMeasured
    | LoadFailed
    | LoadTimedOut
    | Used
    | ProtectionChanged
    | SizeDeclared
    | RemoveRequested
    | CopyClosed
    | CopyBusy
    | UnloadFinished
    | UnloadFailed
    | RuntimeLost
    | RuntimeRestarted
    | LimitsChanged
    | ShutdownStarted
    | Tick
)
