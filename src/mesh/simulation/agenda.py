"""Simulated time: what happens next, and processes that wait for it."""

from collections.abc import Callable, Generator
from heapq import heappop, heappush
from typing import Any, Protocol

#: The first moment of every simulation, epoch milliseconds.
START_MS = 1_800_000_000_000
#: A process: yields microseconds to wait, or a `Signal` to wait for.
Steps = Generator["int | Signal", Any, Any]


class Signal:
    """Something that happens once; processes wait for it, and get its value."""

    __slots__ = ("_waiting", "done", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self._waiting: list[Process] | None = None

    def set(self, value: Any = None) -> None:
        """It happens; a second time is nothing."""
        if self.done:
            return
        self.done = True
        self.value = value
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            for process in waiting:
                process.resume(value)

    def wait(self, process: "Process") -> None:
        """Has a process go on when it happens."""
        if self._waiting is None:
            self._waiting = [process]
        else:
            self._waiting.append(process)


class Owner(Protocol):
    """Whose process it is: a process of one that is gone goes no further, one of a paused owner goes on later.

    Attributes:
        epoch: a process begun in another one goes no further.
        paused: it stands still.
    """

    epoch: int
    paused: bool

    def admits(self, epoch: int, process: "Process", value: Any) -> bool:
        """Whether a process begun in an epoch may take a step now; keeps it where it may later."""


class Process(Signal):
    """A generator that is carried through simulated time.

    As a signal it is set when it ends: with what the generator returned, or with None where its owner went away.
    """

    __slots__ = ("_agenda", "_epoch", "_owner", "_steps")

    def __init__(self, agenda: "Agenda", steps: Steps, owner: Owner | None, epoch: int) -> None:
        self._agenda = agenda
        self._steps = steps
        self._owner = owner
        self._epoch = epoch
        self.done = False
        self.value = None
        self._waiting = None

    def resume(self, value: Any) -> None:
        """Takes steps until it has to wait."""
        owner = self._owner
        if (
            owner is not None
            and (owner.epoch != self._epoch or owner.paused)
            and not owner.admits(self._epoch, self, value)
        ):
            return
        steps = self._steps
        try:
            while True:
                wanted = steps.send(value)
                if isinstance(wanted, Signal):
                    if not wanted.done:
                        wanted.wait(self)
                        return
                    value = wanted.value
                else:
                    self._agenda.after(wanted, self.resume, None)
                    return
        except StopIteration as end:
            self.set(end.value)

    def abandon(self) -> None:
        """Goes no further."""
        self._steps.close()
        self.set(None)


class Agenda:
    """What is to happen, in order of time; what is due at one moment happens in the order in which it was entered.

    Attributes:
        now_us: the simulated time, microseconds since the start.
        happened: events so far.
    """

    __slots__ = ("_entered", "_heap", "happened", "now_us")

    def __init__(self) -> None:
        self.now_us = 0
        self.happened = 0
        self._entered = 0
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []

    @property
    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return START_MS + self.now_us // 1_000

    def at(self, time_us: int, action: Callable[..., object], *arguments: Any) -> None:
        """Enters an action; a time that is past means now."""
        self._entered += 1
        heappush(self._heap, (max(time_us, self.now_us), self._entered, action, arguments))

    def after(self, delay_us: int, action: Callable[..., object], *arguments: Any) -> None:
        """Enters an action that is due after so many microseconds."""
        self._entered += 1
        heappush(self._heap, (self.now_us + delay_us, self._entered, action, arguments))

    def start(self, steps: Steps, owner: Owner | None = None, epoch: int = 0) -> Process:
        """Starts a process; it takes its first steps at once."""
        process = Process(self, steps, owner, epoch)
        process.resume(None)
        return process

    def next_us(self) -> int | None:
        """Returns: when the next action is due, or None without one."""
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """Carries out the next action."""
        self.now_us, _, action, arguments = heappop(self._heap)
        self.happened += 1
        action(*arguments)

    def run_until(self, time_us: int) -> None:
        """Carries out what is due up to and at a time, which it then is."""
        heap = self._heap
        while heap and heap[0][0] <= time_us:
            self.now_us, _, action, arguments = heappop(heap)
            self.happened += 1
            action(*arguments)
        self.now_us = max(self.now_us, time_us)
