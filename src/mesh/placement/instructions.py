"""What a shell is to do for the copies of one instance: the output of `LocalCache.handle`.

They are to be started in the order given; those of one model that write to the registry (`Register`,
`Deregister`, `ReportFailed`, `ForgetFailure`) must also take effect in that order.
"""

from enum import StrEnum

import msgspec

from mesh.placement.sizes import SizeSource


class Refusal(StrEnum):
    """Why a load was refused. No failure is recorded: the model may be asked for again at once."""

    #: The instance is full of copies used so recently that loading would only make them miss.
    CHURN = "churn"
    #: The instance is full and everything in it was used more recently than this model.
    OLDER_THAN_ALL = "older_than_all"
    #: What could make room is in use or on its way itself.
    NO_ROOM = "no_room"
    #: Memory did not become free in time.
    SPACE_TIMEOUT = "space_timeout"
    #: The registry did not take the registration.
    NOT_REGISTERED = "not_registered"
    #: The model has as many copies as its policy allows.
    ENOUGH_COPIES = "enough_copies"
    #: It was removed before it was loaded.
    REMOVED = "removed"
    #: A load that somebody waits for took its place in the queue.
    DISPLACED = "displaced"
    #: An earlier copy could not be unloaded and may still be there.
    STUCK_UNLOAD = "stuck_unload"
    SHUTTING_DOWN = "shutting_down"
    #: Its labels do not allow the type; the peer that asked may not have heard of new rules yet.
    NOT_ELIGIBLE = "not_eligible"


class Failure(StrEnum):
    """Why a load failed. The failure is recorded, so that the model is not tried here again for a while."""

    RUNTIME = "runtime"
    TIMEOUT = "timeout"
    LARGER_THAN_CAPACITY = "larger_than_capacity"


class EvictionReason(StrEnum):
    """Why a copy was evicted."""

    #: Another model needs the room.
    ROOM = "room"
    #: A copy turned out larger than predicted.
    OVERSIZED = "oversized"
    #: Memory was lost to a model that cannot be unloaded.
    CAPACITY_LOST = "capacity_lost"
    #: The runtime has less memory since it was restarted.
    CAPACITY_CHANGED = "capacity_changed"


class Register(msgspec.Struct, frozen=True, gc=False):
    """Enter this instance in the model's record; answer `Registered` or `RegistrationRefused`."""

    model_id: str
    load_id: int
    last_used_ms: int


class PredictSize(msgspec.Struct, frozen=True, gc=False):
    """Ask the runtime for the model's size, at the same time as `Register`; answer `SizePredicted`."""

    model_id: str
    load_id: int


class StartLoad(msgspec.Struct, frozen=True, gc=False):
    """Load; answer one of `LoadFinished`, `LoadFailed` and `LoadTimedOut`.

    Attributes:
        timeout_ms: after which the call is to be cancelled.
        units: memory set aside for it.
        queued_ms: how long it waited for a loader, for the metric.
    """

    model_id: str
    load_id: int
    timeout_ms: int
    units: int
    queued_ms: int


class CancelLoad(msgspec.Struct, frozen=True, gc=False):
    """Cancel the call; its answer is not waited for and ignored where it comes."""

    model_id: str
    load_id: int


class MeasureSize(msgspec.Struct, frozen=True, gc=False):
    """Ask the runtime how large the loaded model is; answer `SizeMeasured`."""

    model_id: str
    load_id: int


class CloseCopy(msgspec.Struct, frozen=True, gc=False):
    """Take the copy out of the data plane and answer `CopyClosed` or `CopyBusy` at once.

    Attributes:
        for_model: the model that needs the room; empty where that is not the reason.
        drain: take it out although requests are in flight, so that only those end. Asked again, it is to tell
            whether they have. Otherwise a busy copy stays as it is.
    """

    model_id: str
    for_model: str
    drain: bool = False


class Deregister(msgspec.Struct, frozen=True, gc=False):
    """Remove this instance from the model's record, and its copy from the route where it still is in it.

    Attributes:
        last_used_ms: of the copy, for the record; 0 where it never served.
    """

    model_id: str
    why: str
    last_used_ms: int = 0


class StartUnload(msgspec.Struct, frozen=True, gc=False):
    """Unload, not before ``not_before_ms``, epoch milliseconds; answer `UnloadFinished` or `UnloadFailed`."""

    model_id: str
    not_before_ms: int


class ReportLoaded(msgspec.Struct, frozen=True, gc=False):
    """The copy is there: give it a route and tell those who wait. Also the answer where it was there already.

    Attributes:
        fresh: it was loaded just now.
    """

    model_id: str
    units: int
    fresh: bool


class ReportSize(msgspec.Struct, frozen=True, gc=False):
    """The runtime has told how large a copy is: remember it for the model's next placement.

    Attributes:
        expected_units: what was counted until now.
        units: what the runtime told.
        source: where the expectation came from; a declared one is counted further.
    """

    model_id: str
    expected_units: int
    units: int
    source: SizeSource


class ReportFailed(msgspec.Struct, frozen=True, gc=False):
    """Tell those who wait and, where ``fresh``, move this instance from copies to failures in the record.

    Attributes:
        code: number of the gRPC status code.
        retry_elsewhere: another instance may well manage.
        fresh: it failed just now; False where an earlier failure is told again.
    """

    model_id: str
    reason: Failure
    code: int
    message: str
    retry_elsewhere: bool
    fresh: bool


class ReportRefused(msgspec.Struct, frozen=True, gc=False):
    """Tell those who wait; nothing is recorded. A `Deregister` comes along where one is needed."""

    model_id: str
    reason: Refusal
    message: str
    retry_elsewhere: bool


class ForgetFailure(msgspec.Struct, frozen=True, gc=False):
    """The failure is old enough: remove it from the model's record."""

    model_id: str


class ReportEvicted(msgspec.Struct, frozen=True, gc=False):
    """For metrics and `mesh explain`; what is to be done about it comes as further instructions.

    Attributes:
        for_model: on whose behalf; empty for lost capacity.
        age_ms: time since its last use.
        loaded_for_ms: how long the copy was here.
        why: why this copy and not another, for people.
    """

    model_id: str
    for_model: str
    age_ms: int
    units: int
    reason: EvictionReason
    loaded_for_ms: int
    why: str


class ReportCapacityLost(msgspec.Struct, frozen=True, gc=False):
    """A model could not be unloaded, and the memory it may hold is not counted on any more."""

    model_id: str
    units: int
    attempts: int
    message: str


class WakeAt(msgspec.Struct, frozen=True, gc=False):
    """Send a `Tick` at this time (epoch milliseconds). Does not cancel an earlier one."""

    time_ms: int


Instruction = (
    Register
    | PredictSize
    | StartLoad
    | CancelLoad
    | MeasureSize
    | CloseCopy
    | Deregister
    | StartUnload
    | ReportLoaded
    | ReportSize
    | ReportFailed
    | ReportRefused
    | ForgetFailure
    | ReportEvicted
    | ReportCapacityLost
    | WakeAt
)
