"""What is known of the memory that a model takes, before and after it is loaded."""

from dataclasses import dataclass
from enum import StrEnum

#: An estimate is off where the larger of it and the truth is so many times the other.
OFF_FACTOR = 1.25
#: Differences below this many units, 1 MiB, are nobody's business.
_OFF_UNITS = 128
_REMEMBERED = 10_000


class SizeSource(StrEnum):
    """Where a size comes from, the most trusted first."""

    #: The model's owner has declared it, in its policy.
    DECLARED = "declared"
    #: The model server told it of an earlier copy.
    LEARNED = "learned"
    #: The model server estimated it from the model's data.
    PREDICTED = "predicted"
    #: The model server's size of a model of which nothing is known.
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class KnownSize:
    """What is known of a model's size without asking the model server, in units of 8 KiB; 0 where nothing is.

    Attributes:
        declared: by its owner.
        learned: from earlier copies.
    """

    declared: int = 0
    learned: int = 0

    @property
    def units(self) -> int:
        """The size to go by; 0 where nothing is known."""
        return self.declared or self.learned

    @property
    def source(self) -> SizeSource:
        """Where `units` comes from."""
        if self.declared:
            return SizeSource.DECLARED
        return SizeSource.LEARNED if self.learned else SizeSource.DEFAULT


UNKNOWN_SIZE = KnownSize()


def is_off(expected: int, actual: int) -> bool:
    """Tells whether a size was estimated so badly that somebody should know.

    Args:
        expected: units that were counted.
        actual: units that the model takes.
    """
    less, more = sorted((expected, actual))
    return more - less >= _OFF_UNITS and more >= OFF_FACTOR * less


class LearnedSizes:
    """Sizes of models that have been here, so that a wrong estimate is made only once; the newest are kept."""

    def __init__(self, capacity: int = _REMEMBERED) -> None:
        self._capacity = capacity
        self._units: dict[str, int] = {}

    def get(self, model_id: str) -> int:
        """Returns: units, or 0 where nothing has been learned."""
        return self._units.get(model_id, 0)

    def learn(self, model_id: str, units: int) -> None:
        """Takes note of a size."""
        self._units.pop(model_id, None)
        self._units[model_id] = units
        if len(self._units) > self._capacity:
            del self._units[next(iter(self._units))]

    def forget(self, model_id: str) -> None:
        """The model is no more; unknown ones are fine."""
        self._units.pop(model_id, None)
