"""Decisions kept with their reasons, so that people can ask why."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class DecisionKind(StrEnum):
    """What was decided."""

    PLACEMENT = "placement"
    LOAD = "load"
    EVICTION = "eviction"
    REFUSAL = "refusal"
    UNLOAD = "unload"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one instance was worth as a place for the model.

    Attributes:
        rank: 1 is best; 0 where it was refused.
        refused: why it was out of the question; empty where it was not.
        score: why it ranked where it did; empty where it was refused.
    """

    instance_id: str
    rank: int = 0
    refused: str = ""
    score: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision with its reasons.

    Attributes:
        time_ms: epoch milliseconds.
        summary: one line for people.
        chosen: the instance, where one was chosen.
        candidates: best first, refused ones last.
        related_models: on whose behalf this one was evicted, or who was evicted for it.
    """

    kind: DecisionKind
    time_ms: int
    model_id: str
    summary: str
    chosen: str = ""
    candidates: tuple[Candidate, ...] = ()
    related_models: tuple[str, ...] = ()


class DecisionRing:
    """The newest decisions, bounded overall and per model.

    The bound per model keeps one model in trouble from washing out what is known of the others.

    Args:
        capacity: decisions kept overall.
        per_model: decisions kept of one model.

    Raises:
        ValueError: a bound is below 1.
    """

    def __init__(self, capacity: int = 10_000, per_model: int = 50) -> None: ...

    def add(self, decision: Decision) -> None:
        """Keeps it, forgetting the oldest where a bound is reached."""
        raise NotImplementedError

    def newest(self, limit: int, model_id: str = "") -> list[Decision]:
        """Returns: at most ``limit`` decisions, newest first; of all models where ``model_id`` is empty."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Decision]:
        """Oldest first."""
        raise NotImplementedError
