"""Work that an instance does again and again, beside its requests."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from random import Random

log = logging.getLogger(__name__)

#: Share of the interval by which runs are moved about, so that instances started together do not all run at once.
JITTER = 0.1


async def repeat(
    what: str,
    every_s: float,
    run: Callable[[], Awaitable[None]],
    *,
    first_after_s: float | None = None,
    random: Random | None = None,
) -> None:
    """Runs something at an interval until it is cancelled; one run that fails is logged and the next one comes.

    Args:
        what: names the work in the log.
        every_s: seconds from one run's beginning to the next one's, unless a run takes longer.
        run: one run.
        first_after_s: seconds before the first run; the interval where None.
        random: moves the runs about.
    """
    random = random or Random()  # noqa: S311 - spreads load
    wait_s = every_s if first_after_s is None else first_after_s
    while True:
        await asyncio.sleep(wait_s)
        began = time.monotonic()
        try:
            await run()
        except Exception:
            log.exception("%s failed and is tried again in %g s", what, every_s)
        spread_s = every_s * random.uniform(-JITTER, JITTER)
        wait_s = max(0.0, every_s + spread_s - (time.monotonic() - began))
