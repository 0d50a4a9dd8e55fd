"""A model on its way to an instance: where to try next, and what an answer means for the next try."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from mesh.placement.instructions import Refusal
from mesh.placement.requests import RequestCaps
from mesh.placement.view import Exclusion, PlacementRequest

#: Rounds of looking and trying, at most: refusals because another instance was first cost a round each.
MAX_ROUNDS = 8


class LoadAnswer(Protocol):
    """How a load ended that an instance was asked for."""

    @property
    def loaded(self) -> bool:
        """There is a copy."""

    @property
    def reason(self) -> str:
        """A `Refusal` or `Failure` where there is none."""

    @property
    def retry_elsewhere(self) -> bool:
        """Another instance may well manage."""

    @property
    def failed(self) -> bool:
        """The model was at fault rather than the place."""


class After(Enum):
    """What follows from an answer."""

    #: There is a copy.
    DONE = 0
    #: Another instance was first: look again where.
    LOOK_AGAIN = 1
    #: Try another instance.
    ELSEWHERE = 2
    #: No other instance would do better.
    GIVE_UP = 3


@dataclass(slots=True)
class Attempt:
    """One model being placed, and what was learned meanwhile.

    Attributes:
        last_used_ms: epoch milliseconds of the use that asks for it.
        urgent: a request waits.
        balanced: the caller spreads its requests over the instances by itself.
        excluded: instances that are out of the question, and why.
        beside: instances whose copies do not stand in the way of another.
        locations: instances that were asked to load it.
    """

    model_id: str
    last_used_ms: int
    urgent: bool = False
    balanced: bool = False
    excluded: dict[str, Exclusion] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)
    locations: int = 0

    def existing(
        self, copies: Mapping[str, int], self_id: str, is_live: Callable[[str], bool], *, loading_here: bool
    ) -> str | None:
        """Looks for a copy that may serve: here, else the one whose load began first.

        Args:
            copies: what the model's record lists, instance to epoch milliseconds of its load's start.
            self_id: the instance that looks.
            is_live: whether an instance is there.
            loading_here: a copy is on its way here; the record may not say so yet.

        Returns: the instance, or None.
        """
        if loading_here and self_id not in self.excluded:
            return self_id
        found = [
            (instance_id != self_id, started, instance_id)
            for instance_id, started in copies.items()
            if instance_id not in self.excluded and is_live(instance_id)
        ]
        return min(found)[2] if found else None

    def request(
        self,
        model_type: str,
        copies: Iterable[str],
        failures: Iterable[str],
        suspects: Iterable[str] = (),
    ) -> PlacementRequest:
        """Tells `choose` what is wanted, and where the model cannot go.

        Args:
            model_type: of the model.
            copies: instances that its record lists.
            failures: instances where it failed to load.
            suspects: instances that did not answer a moment ago.
        """
        excluded = dict(self.excluded)
        for instance_id in failures:
            excluded.setdefault(instance_id, Exclusion.FAILED)
        for instance_id in copies:
            excluded.setdefault(instance_id, Exclusion.HAS_COPY)
        for instance_id in suspects:
            excluded.setdefault(instance_id, Exclusion.SUSPECT)
        return PlacementRequest(
            self.model_id,
            model_type,
            last_used_ms=self.last_used_ms,
            excluded=excluded,
            balanced=self.balanced,
        )

    def learn(self, instance_id: str, answer: LoadAnswer) -> After:
        """Takes in how the load at an instance ended."""
        if answer.loaded:
            return After.DONE
        if answer.reason == Refusal.NOT_REGISTERED and answer.retry_elsewhere:
            return After.LOOK_AGAIN
        self.excluded[instance_id] = Exclusion.FAILED if answer.failed else Exclusion.TRIED
        return After.ELSEWHERE if answer.retry_elsewhere else After.GIVE_UP

    def unreachable(self, instance_id: str) -> None:
        """Takes in that an instance did not answer: what it is listed with is no obstacle either."""
        self.excluded[instance_id] = Exclusion.TRIED
        self.beside.add(instance_id)


def failed_too_often(failures: Iterable[int], now_ms: int, caps: RequestCaps) -> bool:
    """Tells whether a model failed to load so often lately that it is not tried again for now.

    Args:
        failures: when, epoch milliseconds.
        now_ms: epoch milliseconds.
        caps: how often, and how lately.
    """
    recent_ms = now_ms - caps.recent_ms
    return sum(failed > recent_ms for failed in failures) >= caps.recent_failures
