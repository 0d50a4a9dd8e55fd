"""Decisions kept with their reasons, so that people can ask why."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count, islice
from typing import NamedTuple

from mesh.placement.limits import size_text


class DecisionKind(StrEnum):
    """What was decided."""

    PLACEMENT = "placement"
    LOAD = "load"
    EVICTION = "eviction"
    REFUSAL = "refusal"
    UNLOAD = "unload"
    FAILURE = "failure"
    #: Memory was counted that a model does not take, or takes beyond.
    SIZE = "size"
    SCALE_UP = "scale_up"
    SCALE_DOWN = "scale_down"
    MOVE = "move"
    #: The model is loaded before anybody asks for it.
    PRELOAD = "preload"
    #: The model's data in storage is not what was loaded.
    SOURCE = "source"
    #: A vmodel moved to the model.
    SWITCH = "switch"
    #: Somebody who processes the model's payloads noticed something.
    OBSERVATION = "observation"


class Merits(NamedTuple):
    """What an instance was worth as a place for a model; put into words only when somebody asks.

    Attributes:
        full: the model does not get in without an eviction, or hardly.
        free: units of 8 KiB.
        capacity: units of 8 KiB.
        models: entries of its cache.
        loads: queued, waiting and running.
        threads: loads at once.
        age_ms: since the oldest entry's last use, milliseconds; None where it does not matter.
        rpm: requests per minute.
        aside: why others were wished for; empty where they were not.
    """

    full: bool
    free: int
    capacity: int
    models: int
    loads: int
    threads: int
    age_ms: int | None
    rpm: int
    aside: str = ""

    def text(self) -> str:
        """One line for people."""
        text = (
            f"{'full' if self.full else 'room'}: {size_text(self.free)} of {size_text(self.capacity)} free, "
            f"{self.models} models, {self.loads} loads on {self.threads} loaders"
        )
        if self.age_ms is not None:
            text += f", oldest use {self.age_ms / 1000:.0f} s ago"
        if self.rpm:
            text += f", {self.rpm} requests/min"
        return f"{text}; set aside: {self.aside}" if self.aside else text


class Candidate(NamedTuple):
    """What one instance was worth as a place for the model.

    Attributes:
        rank: 1 is best; 0 where it was refused.
        refused: why it was out of the question; empty where it was not.
        merits: why it ranked where it did; None where it was refused.
    """

    instance_id: str
    rank: int = 0
    refused: str = ""
    merits: Merits | None = None

    @property
    def score(self) -> str:
        """Why it ranked where it did, for people; empty where it was refused."""
        return "" if self.merits is None else self.merits.text()


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision with its reasons.

    Attributes:
        time_ms: epoch milliseconds.
        summary: one line for people.
        chosen: the instance, where one was chosen.
        candidates: best first, refused ones last.
        related_models: on whose behalf this one was evicted, or who was evicted for it.
        trace_id: of the request that asked for it, where that is traced; 32 hexadecimal digits.
    """

    kind: DecisionKind
    time_ms: int
    model_id: str
    summary: str
    chosen: str = ""
    candidates: tuple[Candidate, ...] = ()
    related_models: tuple[str, ...] = ()
    trace_id: str = ""


class DecisionRing:
    """The newest decisions, bounded overall and per model.

    The bound per model keeps one model in trouble from washing out what is known of the others.

    Args:
        capacity: decisions kept overall.
        per_model: decisions kept of one model.

    Raises:
        ValueError: a bound is below 1.
    """

    def __init__(self, capacity: int = 10_000, per_model: int = 50) -> None:
        if capacity < 1 or per_model < 1:
            raise ValueError(f"capacity is {capacity} and per_model {per_model}, both must be at least 1")
        self._capacity = capacity
        self._per_model = per_model
        self._sequence = count()
        self._decisions: OrderedDict[int, Decision] = OrderedDict()
        self._of_model: dict[str, deque[int]] = {}

    def add(self, decision: Decision) -> None:
        """Keeps it, forgetting the oldest where a bound is reached."""
        number = next(self._sequence)
        mine = self._of_model.setdefault(decision.model_id, deque())
        mine.append(number)
        self._decisions[number] = decision
        if len(mine) > self._per_model:
            del self._decisions[mine.popleft()]
        elif len(self._decisions) > self._capacity:
            _, oldest = self._decisions.popitem(last=False)
            others = self._of_model[oldest.model_id]
            others.popleft()
            if not others:
                del self._of_model[oldest.model_id]

    def newest(self, limit: int, model_id: str = "") -> list[Decision]:
        """Returns: at most ``limit`` decisions, newest first; of all models where ``model_id`` is empty."""
        if not model_id:
            return list(islice(reversed(self._decisions.values()), limit))
        return [
            self._decisions[number] for number in islice(reversed(self._of_model.get(model_id, ())), limit)
        ]

    def __len__(self) -> int:
        return len(self._decisions)

    def __iter__(self) -> Iterator[Decision]:
        """Oldest first."""
        return iter(self._decisions.values())
