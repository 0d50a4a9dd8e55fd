"""Whether the first loads of an instance show that it must not be let into a mesh that works."""

from collections.abc import Mapping

#: So many loads that failed here and had succeeded elsewhere are enough; as KServe ModelMesh has it.
FATAL_FAILURES = 3
#: Of more loads than this, half must not fail; as KServe ModelMesh has it.
MANY_LOADS = 20
#: A model that failed elsewhere before this, milliseconds ago, is to blame itself; as KServe ModelMesh has it.
KNOWN_BAD_AFTER_MS = 30 * 60_000


class Bootstrap:
    """Counts the first loads of an instance.

    A new release, or one configured wrongly, may start well and be unable to load models that others have. Kept
    unready it holds the rollout, and the instances that work are not taken away.

    Args:
        began_ms: when the instance began to serve, epoch milliseconds.
        clearance_ms: for so long its loads are watched, milliseconds.
        loading_timeout_ms: a copy whose load began longer ago than this has been loaded.
    """

    def __init__(self, began_ms: int, clearance_ms: int, loading_timeout_ms: int) -> None:
        self._until_ms = began_ms + clearance_ms
        self._loading_timeout_ms = loading_timeout_ms
        self._succeeded = 0
        self._failed = 0
        self._fatal: list[str] = []

    def loaded(self) -> None:
        """A load succeeded here."""
        self._succeeded += 1

    def failed(
        self,
        model_id: str,
        copies: Mapping[str, int],
        failures: Mapping[str, int],
        outstanding: int,
        now_ms: int,
    ) -> str:
        """A load failed here.

        Args:
            model_id: whose.
            copies: the other instances that list the model, and when their loads began, epoch milliseconds.
            failures: the other instances at which its load failed, and when, epoch milliseconds.
            outstanding: loads here that have not ended.
            now_ms: epoch milliseconds.

        Returns: why the instance must not be let in, for people; empty where nothing speaks against it.
        """
        if now_ms >= self._until_ms:
            return ""
        if any(started <= now_ms - self._loading_timeout_ms for started in copies.values()):
            self._fatal.append(model_id)
            if len(self._fatal) >= FATAL_FAILURES:
                return (
                    f"the loads of {', '.join(self._fatal)} failed here, and other instances have these models "
                    "loaded: compare this instance's release and configuration with theirs"
                )
        elif not any(failed <= now_ms - KNOWN_BAD_AFTER_MS for failed in failures.values()):
            self._failed += 1
            loads = self._succeeded + outstanding + self._failed
            if loads > MANY_LOADS and 2 * self._failed > loads:
                return (
                    f"{self._failed} of the first {loads} loads failed here: see `mesh explain` or the log for the "
                    "reasons"
                )
        return ""
