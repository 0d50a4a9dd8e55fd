"""How a vmodel's target is made ready, one step at a time."""

from dataclasses import dataclass

from mesh.placement.vmodels.changes import CopyCount

#: Between two looks at copies that are on their way, milliseconds.
LOADING_LOOK_MS = 250
#: Between two looks where there was no room for another copy, milliseconds.
NO_ROOM_LOOK_MS = 5_000
#: A target that has a copy is not kept waiting longer for as many as the active model has, milliseconds. KServe
#: ModelMesh gives a transition as long, and waits for one copy only.
PATIENCE_MS = 600_000


@dataclass(frozen=True, slots=True)
class CopyRefused:
    """Why a copy of the target could not be made.

    Attributes:
        message: for people.
        everywhere: no instance without a copy can ever have one, so that none is to be waited for.
    """

    message: str
    everywhere: bool = False


@dataclass(frozen=True, slots=True)
class TransitionView:
    """A transition at one moment.

    Attributes:
        active: copies of the model that serves.
        target: copies of the one that is to serve.
        refusal: why the copies last asked for were not all made; None where they were, or none were asked for.
        most: copies that the target may have by its policy; 0 for any number.
        waited_ms: since the first step.
    """

    active: CopyCount
    target: CopyCount
    refusal: CopyRefused | None = None
    most: int = 0
    waited_ms: int = 0


@dataclass(frozen=True, slots=True)
class Switch:
    """The target is ready; ``why`` is for people."""

    why: str


@dataclass(frozen=True, slots=True)
class MakeCopies:
    """Have so many more copies of the target."""

    count: int


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Nothing can be done now: copies are on their way, or there is no room for another.

    Attributes:
        after_ms: how long to wait before the next look.
    """

    after_ms: int


@dataclass(frozen=True, slots=True)
class Park:
    """The target cannot be loaded; nothing more is done until its record changes or some time has passed."""

    why: str


TransitionStep = Switch | MakeCopies | LookAgain | Park


def next_transition_step(view: TransitionView, patience_ms: int = PATIENCE_MS) -> TransitionStep:
    """Decides what brings a transition on.

    The target gets as many loaded copies as the active model has, so that it takes its requests over without a dip.
    A mesh without the room for that must not keep it back forever: then fewer will do, but not none.
    """
    wanted, loaded = view.active.listed, view.target.loaded
    if wanted == 0:
        return Switch("the active model has no copy")
    if loaded >= wanted:
        return Switch(f"it has {_copies(loaded)}, as many as the active model")
    if 0 < view.most <= loaded:
        return Switch(f"it has {_copies(loaded)}, as many as its policy allows")
    wanted = min(wanted, view.most or wanted)
    if view.refusal is None:
        missing = wanted - view.target.listed
        return MakeCopies(missing) if missing > 0 else LookAgain(LOADING_LOOK_MS)
    if loaded == 0:
        return Park(view.refusal.message)
    if view.refusal.everywhere or view.waited_ms >= patience_ms:
        return Switch(
            f"it has {_copies(loaded)}, the active model {wanted}, and more are not to be had: {view.refusal.message}"
        )
    return LookAgain(NO_ROOM_LOOK_MS)


def _copies(count: int) -> str:
    return "1 copy" if count == 1 else f"{count} copies"
