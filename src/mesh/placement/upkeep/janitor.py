"""One instance's copies and what the records say of them: where they differ, and what is to be done about it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from mesh.placement.cache import CopyView
from mesh.placement.entries import CopyState

_SERVING = frozenset({CopyState.SIZING, CopyState.LOADED})


class RecordedModel(Protocol):
    """A model's record, as far as it matters here. Times are epoch milliseconds."""

    @property
    def copies(self) -> Mapping[str, int]:
        """Instance to when its load began."""

    @property
    def failures(self) -> Mapping[str, int]:
        """Instance to when a load failed there."""

    @property
    def last_used(self) -> int:
        """Last use, hours late."""


class TidyingKind(StrEnum):
    """What is to be done."""

    #: There is no such model any more: the copy is to go.
    UNLOAD = "unload"
    #: The copy serves and the record does not list it.
    ENTER = "enter"
    #: The record has another time for the beginning of its load.
    CORRECT_START = "correct_start"
    #: The record lists a copy that is not here.
    TAKE_OUT = "take_out"
    #: The record has a failure that is over.
    FORGET_FAILURE = "forget_failure"
    #: The record's last use is long before the last one here.
    NOTE_USE = "note_use"


@dataclass(frozen=True, slots=True)
class Tidying:
    """Something to be done for one model.

    Attributes:
        time_ms: when the load began, or the last use; epoch milliseconds, 0 for what needs neither.
    """

    kind: TidyingKind
    model_id: str
    time_ms: int = 0


@dataclass(frozen=True, slots=True)
class TidyingFigures:
    """When a difference is one.

    Attributes:
        failure_expiry_ms: a failure older than this is over.
        use_lag_ms: a record's last use may be so much behind: it is written for whoever loads the model next, and
            not worth a write for each use.
        start_lag_ms: the record's time of a load's beginning may differ so much; two clocks never agree.
    """

    failure_expiry_ms: int = 900_000
    use_lag_ms: int = 1_800_000
    start_lag_ms: int = 60_000


def tidy(
    instance_id: str,
    model_id: str,
    copy: CopyView | None,
    record: RecordedModel | None,
    now_ms: int,
    figures: TidyingFigures = TidyingFigures(),
) -> Iterator[Tidying]:
    """Compares what an instance has of a model with the model's record.

    A copy on its way is left alone, since its record is about to change.

    Args:
        instance_id: this instance.
        copy: what is here; None for nothing.
        record: None where the model is not registered.
        now_ms: epoch milliseconds.
        figures: when a difference is one.
    """
    if record is None:
        if copy is not None and copy.state is not CopyState.UNLOADING:
            yield Tidying(TidyingKind.UNLOAD, model_id)
        return
    listed_ms = record.copies.get(instance_id)
    failed_ms = record.failures.get(instance_id)
    if copy is None or copy.state is CopyState.UNLOADING:
        if listed_ms is not None:
            yield Tidying(TidyingKind.TAKE_OUT, model_id)
        if failed_ms is not None and now_ms - failed_ms >= figures.failure_expiry_ms:
            yield Tidying(TidyingKind.FORGET_FAILURE, model_id)
        return
    if copy.state not in _SERVING:
        return
    if listed_ms is None:
        yield Tidying(TidyingKind.ENTER, model_id, copy.since_ms)
    elif abs(listed_ms - copy.since_ms) > figures.start_lag_ms:
        yield Tidying(TidyingKind.CORRECT_START, model_id, copy.since_ms)
    if failed_ms is not None:
        yield Tidying(TidyingKind.FORGET_FAILURE, model_id)
    # A copy that was added for load counts as used in the future.
    used_ms = min(copy.last_used_ms, now_ms)
    if used_ms - record.last_used > figures.use_lag_ms:
        yield Tidying(TidyingKind.NOTE_USE, model_id, used_ms)
