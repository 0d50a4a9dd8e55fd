"""A model on its way to an instance: where to try next, and what an answer means for the next try."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from mesh.placement.instructions import Refusal
from mesh.placement.placements import InstanceFilter
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
        copies: that the model is to have; with so many there is nothing to be done.
        replaced: instances whose copies go once there is one elsewhere, so that they do not count as what the model
            may have.
        conditions: on the instances that it may go to.
        why: it is to have a further copy, for people.
        locations: instances that were asked to load it.
    """

    model_id: str
    last_used_ms: int
    urgent: bool = False
    balanced: bool = False
    excluded: dict[str, Exclusion] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)
    copies: int = 1
    replaced: frozenset[str] = frozenset()
    conditions: Sequence[InstanceFilter] = ()
    why: str = ""
    locations: int = 0

    def existing(
        self, copies: Mapping[str, int], self_id: str, is_live: Callable[[str], bool], *, loading_here: bool
    ) -> str | None:
        """Looks for copies that may serve, as many as there are to be: takes one here, else whose load began first.

        Args:
            copies: what the model's record lists, instance to epoch milliseconds of its load's start.
            self_id: the instance that looks.
            is_live: whether an instance is there.
            loading_here: a copy is on its way here; the record may not say so yet.

        Returns: the instance, or None where there are too few.
        """
        if loading_here and self_id not in self.excluded and self.copies == 1:
            return self_id
        found = [
            (instance_id != self_id, started, instance_id)
            for instance_id, started in copies.items()
            if self.excluded.get(instance_id, Exclusion.HAS_COPY) is Exclusion.HAS_COPY
            and is_live(instance_id)
        ]
        return min(found)[2] if len(found) >= self.copies else None

    def full_number(self, copies: Iterable[str], most: int, stays: Callable[[str], bool]) -> list[str]:
        """Looks whether the model has as many copies as its policy allows.

        Args:
            copies: instances that its record lists.
            most: copies that it may have; 0 for any number.
            stays: whether an instance is there and not leaving.

        Returns: where they are, if so, else nothing.
        """
        staying = [one for one in copies if one not in self.replaced and stays(one)] if most else []
        return staying if len(staying) >= most else []

    def request(
        self,
        model_type: str,
        copies: Iterable[str],
        failures: Iterable[str],
        suspects: Iterable[str] = (),
        *,
        units: int = 0,
    ) -> PlacementRequest:
        """Tells `choose` what is wanted, and where the model cannot go.

        Args:
            model_type: of the model.
            copies: instances that its record lists.
            failures: instances where it failed to load.
            suspects: instances that did not answer a moment ago.
            units: size of the model, units of 8 KiB; 0 where unknown.
        """
        excluded = dict(self.excluded)
        for instance_id in failures:
            excluded.setdefault(instance_id, Exclusion.FAILED)
        for instance_id in copies:
            excluded.setdefault(instance_id, Exclusion.HAS_COPY)
        for instance_id in suspects:
            if excluded.get(instance_id, Exclusion.NOT_SERVED) is Exclusion.NOT_SERVED:
                excluded[instance_id] = Exclusion.SUSPECT
        return PlacementRequest(
            self.model_id,
            model_type,
            units,
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
        # Its word is newer than the record, which may list it for a while yet and would stand in others' way.
        self.beside.add(instance_id)
        return After.ELSEWHERE if answer.retry_elsewhere else After.GIVE_UP

    def failures(self, recorded: Mapping[str, int], now_ms: int) -> dict[str, int]:
        """Where the model failed to load, and when, epoch milliseconds: what its record lists, and what was learned."""
        failed = [name for name, reason in self.excluded.items() if reason is Exclusion.FAILED]
        return dict.fromkeys(failed, now_ms) | dict(recorded)

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
