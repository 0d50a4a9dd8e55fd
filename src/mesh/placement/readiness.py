"""Whether clients should be sent to an instance, and why not."""

from collections.abc import Collection


class Readiness:
    """One instance's readiness, from its start to its end; a state machine without a clock.

    An instance that could serve waits until no other instance of the mesh is leaving, so that a rollout takes pods
    one after the other however many are started at once. It waits so only until it has been ready once, as KServe
    ModelMesh does; else every pod would become unready whenever one leaves.
    """

    def __init__(self) -> None:
        self._serving = False
        self._leaving = False
        self._was_ready = False
        self._others_leaving: tuple[str, ...] = ()
        self._faults: dict[str, str] = {}

    def serve(self) -> None:
        """The instance has started: it takes requests."""
        self._serving = True
        self._latch()

    def leave(self) -> None:
        """The instance has handed over what it had and takes no more requests."""
        self._leaving = True

    def see_leaving(self, instances: Collection[str]) -> None:
        """Which other instances are leaving now."""
        self._others_leaving = tuple(sorted(instances))
        self._latch()

    def fail(self, what: str, why: str) -> None:
        """Something is broken that only a new process mends.

        Args:
            what: broke; of several faults of the same thing the first is kept.
            why: for people.
        """
        self._faults.setdefault(what, why)

    @property
    def ready(self) -> bool:
        """Whether clients should be sent here."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why clients should not be sent here, for people; empty where they should."""
        reasons = list(self._faults.values())
        if self._leaving:
            reasons.append("the instance is leaving the mesh")
        elif not self._serving:
            reasons.append("the instance is starting")
        elif not self._was_ready:
            reasons.append(f"waiting until {', '.join(self._others_leaving)} has left the mesh")
        return tuple(reasons)

    def _latch(self) -> None:
        if self._serving and not self._others_leaving:
            self._was_ready = True
