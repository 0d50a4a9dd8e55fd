"""What an instance changes in a model's record about its own copy: pure values, applied to whatever the record is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mesh.registry.records import ModelRecord
from mesh.registry.update import KEEP, Keep


@dataclass(frozen=True, slots=True)
class NotAdded:
    """Why a copy was not entered.

    Attributes:
        message: for people.
        look_again: another instance has a copy, so that looking again finds it.
        most: the model has as many copies as it may have.
    """

    message: str
    look_again: bool = False
    most: bool = False


@dataclass(frozen=True, slots=True)
class Company:
    """The copies elsewhere with which a model is loaded here.

    Attributes:
        beside: instances whose copies do not count as enough: the model is loaded beside them.
        copies: that the model is to have; with so many elsewhere it is not loaded here.
        replaced: instances whose copies go once this one is loaded.
    """

    beside: frozenset[str] = frozenset()
    copies: int = 1
    replaced: frozenset[str] = frozenset()


ALONE = Company()
"""No copy elsewhere counts for anything but being enough."""


class CopyChange(Protocol):
    """A change of a model's record. Times are epoch milliseconds."""

    def apply(self, record: ModelRecord) -> ModelRecord:
        """Returns the record as it is to be; the same one where it is so already."""


@dataclass(slots=True, eq=False)
class AddCopy:
    """Enters an instance as one that loads the model, unless it has copies enough, or as many as it may have.

    Attributes:
        beside: instances whose copies do not count as enough.
        is_live: whether an instance is there; copies of others do not count.
        enough: with so many copies elsewhere no further one is entered. Where it is more than one, copies on
            instances that are leaving do not count.
        replaced: instances whose copies go once this one is loaded; they do not count as what the model may have.
        is_leaving: whether an instance is about to go; its copies do not count as what the model may have either.
        refusal: why it was not entered, as of the last `apply`.
    """

    instance_id: str
    started_ms: int
    last_used_ms: int
    beside: frozenset[str]
    is_live: Callable[[str], bool]
    enough: int = 1
    replaced: frozenset[str] = frozenset()
    is_leaving: Callable[[str], bool] = lambda _: False
    refusal: NotAdded | None = None

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        live = [other for other in record.copies if other != self.instance_id and self.is_live(other)]
        others = [
            other
            for other in live
            if other not in self.beside and (self.enough == 1 or not self.is_leaving(other))
        ]
        if len(others) >= self.enough:
            self.refusal = NotAdded(f"instance {others[0]} has a copy or is loading one", look_again=True)
            return record
        staying = [other for other in live if other not in self.replaced and not self.is_leaving(other)]
        if 0 < record.max_copies <= len(staying):
            self.refusal = NotAdded(
                f"it has copies at {', '.join(staying)}, as many as its policy allows", most=True
            )
            return record
        self.refusal = None
        return (
            record.with_copy(self.instance_id, self.started_ms)
            .without_failure(self.instance_id)
            .with_use(self.last_used_ms)
        )


@dataclass(frozen=True, slots=True)
class RestoreCopy:
    """Enters a copy again that is loaded and that the record does not know any more."""

    instance_id: str
    started_ms: int

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        if self.instance_id in record.copies:
            return record
        return record.with_copy(self.instance_id, self.started_ms)


@dataclass(frozen=True, slots=True)
class RemoveCopy:
    """Takes an instance out of the model's copies.

    Attributes:
        last_used_ms: of the copy; 0 where it was never used, or that is not known.
    """

    instance_id: str
    unloaded_ms: int
    last_used_ms: int = 0

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        if self.instance_id not in record.copies:
            return record
        return record.without_copy(self.instance_id, unloaded=self.unloaded_ms).with_use(self.last_used_ms)


@dataclass(frozen=True, slots=True)
class CorrectStart:
    """Writes down when the load of a copy began that the record lists with another time."""

    instance_id: str
    started_ms: int

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        if self.instance_id not in record.copies:
            return record
        return record.with_copy(self.instance_id, self.started_ms)


@dataclass(frozen=True, slots=True)
class NoteUse:
    """Writes down a use."""

    used_ms: int

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        return record.with_use(self.used_ms)


@dataclass(frozen=True, slots=True)
class ForgetInstances:
    """Takes instances that are no more out of the model's copies and failures.

    Attributes:
        is_there: whether one is there after all.
        started_before_ms: copies whose load began later stay.
    """

    instance_ids: tuple[str, ...]
    is_there: Callable[[str], bool]
    started_before_ms: int

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        for instance_id in self.instance_ids:
            if self.is_there(instance_id):
                continue
            if record.copies.get(instance_id, self.started_before_ms) < self.started_before_ms:
                record = record.without_copy(instance_id)
            if instance_id in record.failures and instance_id not in record.copies:
                record = record.without_failure(instance_id)
        return record


@dataclass(frozen=True, slots=True)
class ConfirmCopy:
    """Tells that a copy is loaded."""

    instance_id: str

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        if self.instance_id not in record.copies or self.instance_id in record.ready:
            return record
        return record.with_ready(self.instance_id)


@dataclass(slots=True, eq=False)
class ResignCopy:
    """Takes an instance out of the model's copies where enough others stay.

    Attributes:
        keep: copies that must stay elsewhere, on instances that are there and not leaving.
        stays: whether an instance is such a one.
        not_since_ms: only where no other copy was unloaded since then, as far as the record tells.
        done: whether it was taken out, or was not there, as of the last `apply`.
    """

    instance_id: str
    unloaded_ms: int
    keep: int
    stays: Callable[[str], bool]
    not_since_ms: int
    done: bool = False

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        others = sum(other != self.instance_id and self.stays(other) for other in record.copies)
        listed = self.instance_id in record.copies
        self.done = not listed or (others >= self.keep and record.last_unload <= self.not_since_ms)
        if not listed or not self.done:
            return record
        return record.without_copy(self.instance_id, unloaded=self.unloaded_ms)


@dataclass(frozen=True, slots=True)
class MoveToFailures:
    """Records that the load failed at an instance, and why, for people and for machines."""

    instance_id: str
    failed_ms: int
    message: str
    reason: str

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        return record.without_copy(self.instance_id).with_failure(
            self.instance_id, self.failed_ms, self.message, self.reason
        )


@dataclass(frozen=True, slots=True)
class RemoveFailure:
    """Forgets that a load failed at an instance."""

    instance_id: str

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        return record.without_failure(self.instance_id)


@dataclass(frozen=True, slots=True)
class LearnSize:
    """Notes how much memory a copy took, in units of 8 KiB."""

    units: int

    def apply(self, record: ModelRecord) -> ModelRecord:
        """See `CopyChange`."""
        return record if record.size_units == self.units else record.but(size_units=self.units)


class CopyRefused(Exception):
    """Nothing is to be written, since an `AddCopy` was refused; its `refusal` tells why."""


def apply_together(record: ModelRecord | None, changes: Sequence[CopyChange]) -> ModelRecord | Keep:
    """Applies changes in order, as the change of an update.

    Returns: the record as it is to be.

    Raises:
        CopyRefused: an `AddCopy` was refused and nothing else is to be written. Raised, because an update lets nothing
            be raised before the store has confirmed what its mirror says: one that lags behind would refuse a copy for
            one that has just gone, and again for whoever asks the next moment.
    """
    if record is None:
        for change in changes:
            if isinstance(change, AddCopy):
                change.refusal = NotAdded("the model is not registered", look_again=True)
        return KEEP
    changed = record
    for change in changes:
        changed = change.apply(changed)
    if changed != record:
        return changed
    if any(isinstance(change, AddCopy) and change.refusal is not None for change in changes):
        raise CopyRefused
    return KEEP
