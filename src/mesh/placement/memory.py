"""The sums of one runtime's memory, in units of 8 KiB."""

from mesh.placement.limits import CacheLimits


class Memory:
    """Who holds how much.

    Two things are counted. *Used* is what the cache's entries hold or are going to hold; it decides who may
    enter, and stays within the capacity less the unload buffer. *Resident*, *unloading* and *lost* are what
    the runtime really holds at this moment; they decide when a load may start, and stay within the whole
    capacity. Only a model that turns out larger than predicted can push either over: then nothing enters until
    evictions have made up for it.

    Attributes:
        capacity: what entries may hold.
    """

    __slots__ = ("_buffer", "_total", "capacity", "lost", "resident", "unloading", "used")

    def __init__(self, limits: CacheLimits) -> None:
        self.used = 0
        self.resident = 0
        self.unloading = 0
        self.lost = 0
        self.set_limits(limits)

    def set_limits(self, limits: CacheLimits) -> None:
        """The runtime has this much."""
        self._total = limits.capacity
        self._buffer = limits.unload_buffer
        self._lose(self.lost)

    @property
    def free(self) -> int:
        """What further entries may hold; negative after a model turned out larger than predicted."""
        return self.capacity - self.used

    @property
    def deficit(self) -> int:
        """By how much the runtime holds more than it should."""
        return max(0, self.resident + self.unloading + self.lost - self._total)

    def has_space(self, units: int) -> bool:
        """Returns: whether a load of so many units may start now."""
        return self.resident + self.unloading + self.lost + units <= self._total

    def resize(self, before: int, after: int) -> None:
        """An entry that is in the runtime has another size than was counted."""
        self.used += after - before
        self.resident += after - before

    def start_unload(self, units: int) -> None:
        """An entry leaves the cache, but not yet the runtime."""
        self.used -= units
        self.resident -= units
        self.unloading += units

    def vanish(self, units: int) -> None:
        """An entry left cache and runtime at once."""
        self.used -= units
        self.resident -= units

    def give_up(self, units: int) -> None:
        """A model cannot be unloaded."""
        self.unloading -= units
        self._lose(self.lost + units)

    def regain(self) -> None:
        """What could not be unloaded is gone after all."""
        self._lose(0)

    def _lose(self, units: int) -> None:
        self.lost = units
        self.capacity = max(0, self._total - self._buffer - units)
