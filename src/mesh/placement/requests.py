"""What becomes of a request for which there is no route, or whose copy did not serve it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class CopySeen:
    """A copy as this instance knows of it.

    Attributes:
        started_ms: when its load began, epoch milliseconds; its record says no more.
        confirmed: its instance said that it is loaded.
        doubtful: its instance is shutting down, or did not answer a moment ago.
    """

    instance_id: str
    started_ms: int
    confirmed: bool = False
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Usable:
    """The copies of a model to which requests may go.

    Attributes:
        loaded: instances taken to have it loaded; where none has, the doubtful ones.
        loading: instances taken to be loading it, the one that began first first. Requests may wait there.
        ripens_ms: when the first of ``loading`` is taken to be done, epoch milliseconds; None without one.
    """

    loaded: tuple[str, ...]
    loading: tuple[str, ...]
    ripens_ms: int | None


def usable_copies(copies: Iterable[CopySeen], assume_loaded_ms: float, now_ms: int) -> Usable:
    """Sorts copies out: a record lists an instance from the start of its load on.

    Args:
        copies: those on instances that are there.
        assume_loaded_ms: how long loads of the type take.
        now_ms: epoch milliseconds.
    """
    loaded, doubtful = [], []
    loading: list[tuple[int, str]] = []
    for copy in copies:
        if copy.doubtful:
            doubtful.append(copy.instance_id)
        elif copy.confirmed or copy.started_ms + assume_loaded_ms <= now_ms:
            loaded.append(copy.instance_id)
        else:
            loading.append((copy.started_ms, copy.instance_id))
    loading.sort()
    return Usable(
        tuple(loaded or doubtful),
        tuple(instance_id for _, instance_id in loading),
        int(loading[0][0] + assume_loaded_ms) if loading else None,
    )


class Trouble(StrEnum):
    """Why a request needs a decision."""

    #: Nothing was tried yet, or what was tried has no copy or does not answer.
    NO_COPY = "no_copy"
    #: The model server said UNAVAILABLE; its answer is held back.
    UNAVAILABLE = "unavailable"
    #: The model server said RESOURCE_EXHAUSTED; its answer is held back.
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request and what it has been through.

    Attributes:
        attempts: how often it was sent somewhere.
        exhausted: how often a model server said RESOURCE_EXHAUSTED, this time included.
        tried: instances that did not serve it.
        loads: instances that were asked to load the model for it.
    """

    model_id: str
    trouble: Trouble = Trouble.NO_COPY
    attempts: int = 0
    exhausted: int = 0
    tried: frozenset[str] = frozenset()
    loads: int = 0


@dataclass(frozen=True, slots=True)
class RequestCaps:
    """How much is done for one request; the figures of KServe ModelMesh.

    Attributes:
        recent_failures: of loads, so many of which end a request.
        recent_ms: for how long a failed load counts as recent.
    """

    attempts: int = 8
    exhausted: int = 2
    loads: int = 5
    recent_failures: int = 3
    recent_ms: int = 450_000


class GiveUp(StrEnum):
    """Why a request is failed."""

    ATTEMPTS = "attempts"
    LOADS = "loads"
    LOAD_FAILED = "load_failed"


@dataclass(frozen=True, slots=True)
class UseCopies:
    """Send it to one of these instances, whichever has the fewest requests in flight."""

    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AwaitLoad:
    """Send it to this instance, which is loading the model and lets requests wait."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class PlaceLoad:
    """Have the model loaded on an instance that was not tried."""


@dataclass(frozen=True, slots=True)
class GiveHeldAnswer:
    """The model server's own answer is the best that there is."""


@dataclass(frozen=True, slots=True)
class FailRequest:
    """End it with an error.

    Attributes:
        message: for people.
    """

    reason: GiveUp
    message: str


Step = UseCopies | AwaitLoad | PlaceLoad | GiveHeldAnswer | FailRequest


def next_step(
    request: RequestView,
    usable: Usable,
    failures: Iterable[tuple[int, str]],
    now_ms: int,
    caps: RequestCaps = RequestCaps(),
) -> Step:
    """Decides what to do next for a request.

    A model server that is unavailable or exhausted is no reason for further copies: a request that brings one
    down would otherwise bring down the next, copy by copy. Such a request goes to copies that are there already,
    or back to its caller.

    Args:
        request: what it has been through.
        usable: the model's copies.
        failures: failed loads in the model's record: epoch milliseconds and message.
        now_ms: epoch milliseconds.
        caps: where to stop.
    """
    others = tuple(instance_id for instance_id in usable.loaded if instance_id not in request.tried)
    if request.trouble is not Trouble.NO_COPY:
        spent = request.attempts >= caps.attempts or (
            request.trouble is Trouble.EXHAUSTED and request.exhausted >= caps.exhausted
        )
        return UseCopies(others) if others and not spent else GiveHeldAnswer()
    if request.attempts >= caps.attempts:
        message = f"No copy of model {request.model_id} served the request in {request.attempts} attempts"
        return FailRequest(GiveUp.ATTEMPTS, message)
    if others:
        return UseCopies(others)
    for instance_id in usable.loading:
        if instance_id not in request.tried:
            return AwaitLoad(instance_id)
    recent = [failure for failure in failures if failure[0] > now_ms - caps.recent_ms]
    if len(recent) >= caps.recent_failures:
        return FailRequest(GiveUp.LOAD_FAILED, max(recent)[1])
    if request.loads >= caps.loads:
        message = f"Model {request.model_id} could not be loaded on any of {request.loads} instances"
        return FailRequest(GiveUp.LOADS, message)
    return PlaceLoad()
