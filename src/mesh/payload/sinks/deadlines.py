"""The time that a sink has for a batch."""

from mesh.payload.processor import Options

_TELLING_S = 0.1


def within_s(options: Options) -> float:
    """How long a sink may wait for answers, so that there is time left to tell which payloads got one, seconds.

    A batch that is cut off is tried again as a whole, with what was taken already.
    """
    return max(options.timeout_s - _TELLING_S, options.timeout_s / 2)
