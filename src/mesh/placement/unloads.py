"""Models that have left the cache while the runtime still holds them."""

from dataclasses import dataclass

#: How long after each look at a draining copy the next one follows; after the last it is unloaded regardless.
#: About two minutes in all, as KServe ModelMesh waits.
DRAIN_CHECKS_MS = (200, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000)

#: A failed unload is tried so often, so far apart: for a quarter of an hour, as KServe ModelMesh does.
UNLOAD_ATTEMPTS = 90
UNLOAD_RETRY_MS = 10_000

#: A runtime gets this long to settle after a load failed, or was cancelled, before the unload follows.
AFTER_FAILED_LOAD_MS = 1_000
AFTER_CANCELLED_LOAD_MS = 3_000


@dataclass(slots=True)
class Unload:
    """One model on its way out of the runtime. Its units stay counted until that is done.

    Attributes:
        draining: requests are still in flight; the unload has not been asked for.
        checks: looks at the draining copy so far.
        attempts: failed unloads so far.
    """

    model_id: str
    units: int
    since_ms: int
    last_used_ms: int
    why: str
    draining: bool = False
    in_flight: int = 0
    checks: int = 0
    attempts: int = 0
    message: str = ""

    def next_check_ms(self, now_ms: int) -> int | None:
        """Returns: when to look at the draining copy again, or None where it has had its time."""
        if self.checks >= len(DRAIN_CHECKS_MS):
            return None
        self.checks += 1
        return now_ms + DRAIN_CHECKS_MS[self.checks - 1]

    def next_attempt_ms(self, now_ms: int) -> int | None:
        """Returns: when to try a failed unload again, or None where it is to be given up."""
        self.attempts += 1
        return None if self.attempts >= UNLOAD_ATTEMPTS else now_ms + UNLOAD_RETRY_MS
