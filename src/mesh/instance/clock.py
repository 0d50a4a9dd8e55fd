"""Time of day for what waits for a time of day to come."""

import time


class SteadyClock:
    """Epoch milliseconds that never go back and never stand still.

    The machine's clock may be set back by an hour. What was to be done in a second would then be done in an hour
    and a second: memory would not be freed, nor a load given up. This clock goes on at its pace instead, ahead of the
    machine's, and follows it where that is set forward.
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def __call__(self) -> int:
        """Now, epoch milliseconds."""
        monotonic_ns = time.monotonic_ns()
        self._offset_ns = max(self._offset_ns, time.time_ns() - monotonic_ns)
        return (monotonic_ns + self._offset_ns) // 1_000_000
