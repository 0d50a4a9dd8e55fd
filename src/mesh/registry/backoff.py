"""How long to wait before the next try."""

import random

BASE_SECONDS = 0.1
MAX_SECONDS = 5.0


def around(seconds: float) -> float:
    """Returns a time within a tenth of another, so that instances do not march in step."""
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311  nobody gains by guessing it


def pause_before(attempt: int, *, longest: float = MAX_SECONDS) -> float:
    """Returns seconds to wait before a try, doubling and jittered so that instances do not march in step.

    Args:
        attempt: 1 for the first retry.
        longest: upper bound, seconds.
    """
    pause = min(longest, BASE_SECONDS * 2 ** min(attempt - 1, 16))
    return random.uniform(pause / 2, pause)  # noqa: S311  nobody gains by guessing it
