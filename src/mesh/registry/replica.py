"""What a mirror knows of a prefix: a pure state that takes in facts from lists, watches, reads and writes.

Facts arrive late and out of order: a write of one's own is known before the watch tells of it, and a watch
may tell of what a newer read has already overtaken. Revisions decide; knowledge never goes back.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec

R = TypeVar("R")


class Held(msgspec.Struct, Generic[R], gc=False):
    """A record and the mod_revision at which it was stored."""

    record: R
    revision: int


class Invalid(msgspec.Struct, frozen=True, gc=False):
    """Why a stored value is no record, and the mod_revision at which it was stored."""

    reason: str
    revision: int


class Replica(Generic[R]):
    """Records by id as far as facts about them have arrived.

    Attributes:
        held: the records; not to be changed from outside.
        invalid: ids of stored values that are no records.
        position: every change up to this revision of the store is known.
    """

    def __init__(self) -> None:
        self.held: dict[str, Held[R]] = {}
        self.invalid: dict[str, Invalid] = {}
        self.position = 0
        # Ids known to be deleted at a revision that `position` has not reached yet.
        self._deleted: dict[str, int] = {}

    def known(self, record_id: str) -> int:
        """Returns the newest revision at which something is known to have happened to an id, 0 for none."""
        held = self.held.get(record_id)
        if held is not None:
            return held.revision
        if self._deleted or self.invalid:
            invalid = self.invalid.get(record_id)
            return invalid.revision if invalid else self._deleted.get(record_id, 0)
        return 0

    def is_news(self, record_id: str, modified: int, at: int) -> bool:
        """Tells whether a fact adds to what is known.

        That an id is absent of which nothing is known is no news and is not remembered, since anyone may ask
        for any id; a watch that lags behind may still show a record there for a moment.

        Args:
            record_id: whose.
            modified: mod_revision of its entry, 0 where it is absent.
            at: revision of the store at which this is so; for a change, its own.
        """
        if at < self.position:
            return False
        known = self.known(record_id)
        return known <= at and known != modified

    def set(self, record_id: str, record: R, modified: int) -> R | None:
        """Takes a record in; returns the one before."""
        if self.invalid:
            self.invalid.pop(record_id, None)
        if self._deleted:
            self._deleted.pop(record_id, None)
        held = self.held.get(record_id)
        if held is None:
            self.held[record_id] = Held(record, modified)
            return None
        before = held.record
        held.record = record
        held.revision = modified
        return before

    def set_invalid(self, record_id: str, reason: str, modified: int) -> R | None:
        """Takes in that a stored value is no record; returns the record before."""
        before = self.held.pop(record_id, None)
        self._deleted.pop(record_id, None)
        self.invalid[record_id] = Invalid(reason, modified)
        return before.record if before else None

    def remove(self, record_id: str, at: int) -> R | None:
        """Takes in that there is no record at a revision; returns the one before."""
        before = self.held.pop(record_id, None)
        self.invalid.pop(record_id, None)
        if at > self.position:
            self._deleted[record_id] = at
        return before.record if before else None

    def missing(self, listed: Iterable[str], at: int) -> list[str]:
        """Returns the ids known here that a complete listing at a revision has shown not to exist."""
        present = set(listed)
        return [
            record_id
            for record_id in (*self.held, *self.invalid)
            if record_id not in present and self.known(record_id) <= at
        ]

    def advance(self, position: int) -> None:
        """Takes in that every change up to a revision is known."""
        if position <= self.position:
            return
        self.position = position
        if self._deleted:
            self._deleted = {key: at for key, at in self._deleted.items() if at > position}

    def distrust(self) -> None:
        """Keeps the records and forgets all revisions: the store has gone back behind them."""
        self.position = 0
        self._deleted.clear()
        for held in self.held.values():
            held.revision = -1
        self.invalid = {key: Invalid(invalid.reason, -1) for key, invalid in self.invalid.items()}
