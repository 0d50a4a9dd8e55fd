"""Watches the first loads of an instance, and keeps it unready where they show that it must not be let in."""

import logging
from collections.abc import Callable

from mesh.placement import Bootstrap
from mesh.registry import Registry

log = logging.getLogger(__name__)


class FirstLoads:
    """Tells `Bootstrap` how the loads of one instance end.

    Args:
        bootstrap: judges.
        outstanding: loads here that have not ended.
        block: keeps the instance unready, with the reason.
        now_ms: epoch milliseconds.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        instance_id: str,
        registry: Registry,
        outstanding: Callable[[], int],
        block: Callable[[str], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._bootstrap = bootstrap
        self._instance_id = instance_id
        self._registry = registry
        self._outstanding = outstanding
        self._block = block
        self._now_ms = now_ms

    def ended(self, model_id: str, loaded: bool) -> None:
        """A load ended here."""
        if loaded:
            self._bootstrap.loaded()
            return
        record = self._registry.models.get(model_id)
        copies = {} if record is None else {**record.copies}
        failures = {} if record is None else {**record.failures}
        copies.pop(self._instance_id, None)
        failures.pop(self._instance_id, None)
        reason = self._bootstrap.failed(model_id, copies, failures, self._outstanding(), self._now_ms())
        if reason:
            log.critical("this instance stays unready: %s", reason)
            self._block(reason)
