"""The trace of one load, which belongs to the request that caused it; whatever else waits for it is linked to it."""

import asyncio
from contextvars import copy_context

from mesh.instance.outcomes import LoadOutcome
from mesh.placement import UNIT_BYTES
from mesh.runtimes import ModelInfo
from mesh.tracing import MODEL, begin, current


class LoadTrace:
    """The span of one load, from when it is asked for until all who wait are told.

    Attributes:
        context: in which everything that is done for the load is to run: of its span, and of the log of its request.
    """

    def __init__(self, model: ModelInfo) -> None:
        self._model_id = model.model_id
        self.context = copy_context()
        attributes = {MODEL: model.model_id, "mesh.model.type": model.model_type}
        self._span = self.context.run(begin, "mesh.load", attributes)

    def joined(self, outcome: "asyncio.Future[LoadOutcome]") -> None:
        """A further request waits for the load, from now on until its end."""
        if current() is None:
            return
        links = () if self._span.context is None else (self._span.context,)
        waiting = copy_context().run(begin, "mesh.wait", {MODEL: self._model_id}, links=links)
        outcome.add_done_callback(lambda _: waiting.end())

    def loaded(self, units: int) -> None:
        """The copy takes so much."""
        self._span.set({"mesh.model.bytes": units * UNIT_BYTES})

    def ended(self, outcome: LoadOutcome) -> None:
        """All who wait are told how it ended."""
        if not outcome.loaded:
            self._span.fail(outcome.message or outcome.reason)
        self._span.end()
