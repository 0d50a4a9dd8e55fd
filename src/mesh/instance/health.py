"""Follows what makes an instance ready or not, and tells those who ask."""

import asyncio
import logging

from mesh.instance.control import ControlServer
from mesh.placement import Readiness
from mesh.registry import InstanceRecord, Mirror

log = logging.getLogger(__name__)


class Health:
    """Whether clients should be sent to this instance; the probe ``/ready`` shows it, with the reason."""

    def __init__(self, instance_id: str) -> None:
        self._instance_id = instance_id
        self._state = Readiness()
        self._leaving: set[str] = set()
        self._changed = asyncio.Event()
        self._told: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether clients should be sent here."""
        return self._state.ready

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why they should not be; empty where they should."""
        return self._state.reasons

    def follow(self, instances: Mirror[InstanceRecord]) -> None:
        """Looks at which other instances are leaving, from now on."""
        instances.subscribe(self._instance_changed, replay=True)

    def serve(self) -> None:
        """The instance takes requests."""
        self._state.serve()
        self._note()

    def leave(self) -> None:
        """The instance takes no more requests."""
        self._state.leave()
        self._note()

    def fail(self, what: str, why: str) -> None:
        """Something broke that only a new process mends: the instance is not ready any more."""
        self._state.fail(what, why)
        self._note()

    async def keep_telling(self, control: ControlServer) -> None:
        """Has the health service and ``ServerReady`` say the same, until cancelled."""
        while True:
            self._changed.clear()
            await control.set_ready(self.ready)
            await self._changed.wait()

    def _instance_changed(
        self, instance_id: str, _: InstanceRecord | None, record: InstanceRecord | None
    ) -> None:
        if instance_id == self._instance_id:
            return
        if record is not None and record.shutting_down:
            self._leaving.add(instance_id)
        else:
            self._leaving.discard(instance_id)
        self._state.see_leaving(self._leaving)
        self._note()

    def _note(self) -> None:
        reasons = self.reasons
        if reasons != self._told:
            self._told = reasons
            if reasons:
                log.info("not ready: %s", "; ".join(reasons))
            else:
                log.info("ready")
        self._changed.set()
