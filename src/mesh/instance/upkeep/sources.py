"""Whether models that are here are in their storage still as they were loaded."""

from mesh.instance.chronicle import Chronicle
from mesh.runtimes import ModelRuntime


class Sources:
    """Tells of models whose data in storage has changed, each change once.

    Nothing is done about them: a model whose answers change by themselves would be worse than one that stays as it is,
    and moving a vmodel does it without a gap.

    Args:
        runtime: knows where its models came from.
        chronicle: is told what changed.
    """

    def __init__(self, runtime: ModelRuntime, chronicle: Chronicle) -> None:
        self._runtime = runtime
        self._chronicle = chronicle
        self._changed: dict[str, str] = {}

    def changed(self) -> int:
        """How many models were found changed at the last look."""
        return len(self._changed)

    async def run(self) -> None:
        """Looks once."""
        before, self._changed = self._changed, dict(await self._runtime.changed_sources())
        for model_id, change in self._changed.items():
            if before.get(model_id) != change:
                self._chronicle.source_changed(model_id, change)
