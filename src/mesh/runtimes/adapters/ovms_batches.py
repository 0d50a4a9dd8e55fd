"""Loads and unloads for a server that takes all its models from one file; pure.

The server reads the file anew when it is told to, and answers once all that changed is loaded or has failed. So what is
asked for while it is busy, or within a short time, goes together: one reading serves many loads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """How a change ended."""

    DONE = "done"
    #: The server has the model and says that it cannot load it.
    REFUSED = "refused"
    #: The server does not list the model.
    MISSING = "missing"
    #: Another change of the same model came before it ended.
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Told:
    """What the server says of a model.

    Attributes:
        available: it can be asked.
        why: it cannot, in the server's words.
    """

    available: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a change that was asked for under a ticket."""

    ticket: int
    outcome: Outcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Change:
    """A load or an unload."""

    ticket: int
    load: bool


@dataclass(slots=True)
class Batches:
    """What the server is to have, and who waits for it.

    Attributes:
        models: by name, with their directories; as the file is to list them.
        dirty: the file has not been read since they changed.
    """

    models: dict[str, Path] = field(default_factory=dict)
    dirty: bool = False
    _waiting: dict[str, _Change] = field(default_factory=dict)
    _reading: dict[str, _Change] = field(default_factory=dict)

    def load(self, name: str, directory: Path, ticket: int) -> list[Ended]:
        """Asks for a model.

        Returns: the change of the same model that this one replaces, where there was one.
        """
        self.models[name] = directory
        return self._ask(name, _Change(ticket, load=True))

    def unload(self, name: str, ticket: int) -> list[Ended]:
        """Asks for a model to be gone; see `load`."""
        self.models.pop(name, None)
        return self._ask(name, _Change(ticket, load=False))

    def give_up(self, name: str, ticket: int) -> None:
        """Nobody waits for a load any more: where it has not begun it is not made."""
        waiting = self._waiting.get(name)
        if waiting is not None and waiting.ticket == ticket:
            del self._waiting[name]
            self._drop(name)

    def begin(self) -> Mapping[str, Path]:
        """What was asked for so far is about to be read; returns what the file is to list."""
        self._reading, self._waiting = self._waiting, {}
        self.dirty = False
        return dict(self.models)

    def end(self, told: Mapping[str, Told]) -> list[Ended]:
        """The server has read the file; returns the ends of all that was asked for before."""
        ended = []
        for name, change in self._reading.items():
            status = told.get(name)
            if not change.load:
                ended.append(Ended(change.ticket, Outcome.DONE))
            elif name in self._waiting:
                ended.append(Ended(change.ticket, Outcome.SUPERSEDED))
            elif status is not None and status.available:
                ended.append(Ended(change.ticket, Outcome.DONE))
            else:
                self._drop(name)
                outcome = Outcome.MISSING if status is None else Outcome.REFUSED
                ended.append(Ended(change.ticket, outcome, "" if status is None else status.why))
        self._reading = {}
        return ended

    def fail(self) -> list[int]:
        """The server could not be told; returns the tickets of all that was asked for before, the loads given up."""
        for name, change in self._reading.items():
            if change.load and name not in self._waiting:
                self.models.pop(name, None)
        tickets = [change.ticket for change in self._reading.values()]
        self._reading = {}
        self.dirty = True
        return tickets

    def _ask(self, name: str, change: _Change) -> list[Ended]:
        replaced = self._waiting.get(name)
        self._waiting[name] = change
        self.dirty = True
        return [] if replaced is None else [Ended(replaced.ticket, Outcome.SUPERSEDED)]

    def _drop(self, name: str) -> None:
        # The file may list it still, and it must not come back with the server's next start.
        if self.models.pop(name, None) is not None:
            self.dirty = True
