"""How long loads take, and from when on a copy that was being loaded is taken to be there."""

from dataclasses import dataclass
from math import sqrt

from mesh.placement.limits import default_assume_loaded_ms

_FIRST_SAMPLES = 3
_EVERY = 4
_MANY_SAMPLES = 20
_FEW_DEVIATIONS = 5
_MANY_DEVIATIONS = 3
_MAX_TYPES = 1_000


@dataclass(slots=True)
class _Times:
    """Load times of one model type, milliseconds; mean and variance by Welford's method."""

    assumed_ms: float
    samples: int = 0
    mean_ms: float = 0.0
    squares: float = 0.0

    def add(self, elapsed_ms: float) -> None:
        self.samples += 1
        from_mean = elapsed_ms - self.mean_ms
        self.mean_ms += from_mean / self.samples
        self.squares += from_mean * (elapsed_ms - self.mean_ms)
        if self.samples <= _FIRST_SAMPLES:
            self.assumed_ms = (2 * self.assumed_ms + self.mean_ms) / 3
        elif self.samples % _EVERY == 0:
            deviations = _FEW_DEVIATIONS if self.samples <= _MANY_SAMPLES else _MANY_DEVIATIONS
            self.assumed_ms = self.mean_ms + deviations * sqrt(self.squares / (self.samples - 1))


class LoadTimes:
    """Load times per model type, with the statistics of KServe ModelMesh.

    The first three samples of a type move the assumption a third of the way to their mean; from then on every
    fourth sets it to the mean and five, later three, standard deviations.

    Args:
        loading_timeout_ms: of the runtime; a third of it, at least 3 s, is assumed before there are samples.
    """

    def __init__(self, loading_timeout_ms: int) -> None:
        self._default_ms = float(default_assume_loaded_ms(loading_timeout_ms))
        self._times: dict[str, _Times] = {}

    def timeout_changed(self, loading_timeout_ms: int) -> None:
        """Types without samples are judged by this timeout from now on."""
        self._default_ms = float(default_assume_loaded_ms(loading_timeout_ms))

    def add(self, model_type: str, elapsed_ms: float) -> None:
        """Takes in how long one load took."""
        times = self._times.get(model_type)
        if times is None:
            if len(self._times) >= _MAX_TYPES:
                del self._times[next(iter(self._times))]
            times = self._times[model_type] = _Times(self._default_ms)
        times.add(elapsed_ms)

    def assume_loaded_ms(self, model_type: str) -> float:
        """Returns: milliseconds after the start of a load from which on it is taken to be done."""
        times = self._times.get(model_type)
        return self._default_ms if times is None else times.assumed_ms
