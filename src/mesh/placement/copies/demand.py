"""What the copies of one instance are asked, and which of them are asked more than they are to take."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt

from mesh.placement.copies.figures import ScalingFigures

#: Samples are put together until they span so much, milliseconds: a rate over less is noise.
_SLOT_MS = 200
#: Demand above what a copy is to take counts as sustained when it has lasted so long, milliseconds. Together with a
#: sampling interval of 250 ms it is noticed within a second of its beginning.
_SUSTAINED_MS = 700
#: A copy from which nothing was heard for so long was not in use meanwhile, milliseconds.
_GAP_MS = 1_000
#: Requests that waited for a load come all at once when it is done: a new copy is not judged before, milliseconds.
_CATCHING_UP_MS = 2_000
#: Requests arrive at random: so many standard deviations above the threshold are no accident. The less a copy is
#: asked too much, the longer it takes to be sure; after a whole interval the plain rate decides.
_DEVIATIONS = 4
#: Intervals between two sweeps for models that have not been used for long.
_SWEEP_INTERVALS = 30


class Cause(StrEnum):
    """In what respect a copy is asked too much."""

    RATE = "rate"
    #: Requests in flight, or waiting for a slot where a copy takes only so many at once.
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Sample:
    """What was asked of one copy since the sample before.

    Attributes:
        requests: begun since then.
        in_flight: now, waiting ones included.
        queued: of these, waiting for a slot now.
        answers: given since then.
        service_ms: milliseconds that the answers took together, without waiting.
        max_concurrency: requests that the copy takes at once; 0 for any number.
    """

    requests: int
    in_flight: int = 0
    queued: int = 0
    answers: int = 0
    service_ms: float = 0.0
    max_concurrency: int = 0


@dataclass(frozen=True, slots=True)
class Overload:
    """A copy that is asked more than it is to take.

    Attributes:
        amount: requests per minute, or requests in flight, as `cause` says.
        threshold: of the same, that one copy is to take.
        for_ms: how long it was so.
    """

    model_id: str
    cause: Cause
    amount: int
    threshold: int
    for_ms: int

    @property
    def further_copies(self) -> int:
        """Copies to be added, one at least; 4,500 requests per minute where 2,000 are the threshold make two."""
        return max(1, self.amount // self.threshold)

    def __str__(self) -> str:
        unit = "requests/min" if self.cause is Cause.RATE else "requests in flight"
        return f"{self.amount} {unit} for {self.for_ms / 1_000:.1f} s, where one copy is to take {self.threshold}"


@dataclass(slots=True)
class _Demand:
    """What one copy is asked. Times in epoch milliseconds.

    Attributes:
        began_ms: of the interval under way.
        judged_from_ms: what was asked before does not count; the copy was catching up.
        used: whether it was used in the interval at all.
        queued: the most that waited for a slot.
        earlier_*: in the interval before.
        rpm: over the last interval that ended, at ``ended_ms``.
        peak: the highest rate in any interval of the window of ``calm_ms`` that has the number ``window``.
        earlier_peak: in the window before.
        uses: a bit for each interval, the lowest that of ``uses_slot``, set where the model was used in it.
        slot_*: samples that do not yet span enough to tell a rate.
        over_*: of the time since which demand has been above the threshold without a break; 0 where it is not.
    """

    began_ms: int
    judged_from_ms: int = 0
    used: bool = False
    requests: int = 0
    answers: int = 0
    service_ms: float = 0.0
    earlier_answers: int = 0
    earlier_service_ms: float = 0.0
    max_concurrency: int = 0
    queued: int = 0
    earlier_queued: int = 0
    rpm: int = 0
    ended_ms: int = 0
    window: int = 0
    peak: int = 0
    earlier_peak: int = 0
    uses: int = 0
    uses_slot: int = 0
    slot_ms: int = 0
    slot_requests: int = 0
    over_ms: int = 0
    over_requests: int = 0
    over_in_flight: int = 0

    def threshold(self, figures: ScalingFigures) -> int:
        return figures.copy_rpm(
            self.max_concurrency,
            self.answers + self.earlier_answers,
            self.service_ms + self.earlier_service_ms,
        )

    def restart(self, now_ms: int) -> None:
        self.began_ms = self.slot_ms = now_ms
        self.requests = self.slot_requests = self.over_ms = 0


@dataclass(frozen=True, slots=True)
class DemandView:
    """What one copy was asked lately.

    Attributes:
        rpm: requests per minute in the last interval.
        threshold: that it is to take.
        peak_rpm: the highest rate in any interval of the last `ScalingFigures.calm_ms` or more.
        queued: the most requests that waited for a slot in the last interval.
    """

    rpm: int
    threshold: int
    peak_rpm: int
    queued: int


class Demands:
    """The demand for every copy of one instance; bounded by what was used within the last 40 minutes.

    Args:
        figures: what one copy is to take. Called each time, since they may change while the instance runs.

    Attributes:
        busiest_percent: rate of the copy that was asked most in the last interval, in percent of what it is to take.
    """

    def __init__(self, figures: Callable[[], ScalingFigures]) -> None:
        self._figures = figures
        self._demands: dict[str, _Demand] = {}
        #: Models used in this interval, in the order of their first use.
        self._used: dict[str, None] = {}
        self._began_ms = 0
        self._intervals = 0
        self.busiest_percent = 0

    def note(self, model_id: str, sample: Sample, now_ms: int) -> Overload | None:
        """Takes in what a copy was asked since the last sample.

        Samples are expected every 250 ms of every copy that was used or has requests in flight; more of them do no
        harm.

        Args:
            now_ms: epoch milliseconds.

        Returns: that it is asked too much, where that has lasted long enough to be no accident.
        """
        demand = self._demands.get(model_id)
        if demand is None:
            demand = self._demands[model_id] = _Demand(began_ms=now_ms, slot_ms=now_ms)
        if model_id not in self._used:
            demand.began_ms = self._began_ms or now_ms
            self._used[model_id] = None
        demand.used |= sample.requests > 0
        demand.answers += sample.answers
        demand.service_ms += sample.service_ms
        demand.max_concurrency = sample.max_concurrency
        if now_ms < demand.judged_from_ms:
            demand.slot_ms = now_ms
            return None
        demand.requests += sample.requests
        demand.slot_requests += sample.requests
        demand.queued = max(demand.queued, sample.queued)
        span_ms = now_ms - demand.slot_ms
        if span_ms < _SLOT_MS:
            return None
        overload = None
        if span_ms > _GAP_MS:
            demand.over_ms = 0
        else:
            overload = self._judge_slot(model_id, demand, sample, now_ms)
        demand.slot_ms, demand.slot_requests = now_ms, 0
        return overload

    def _judge_slot(self, model_id: str, demand: _Demand, sample: Sample, now_ms: int) -> Overload | None:
        figures = self._figures()
        rpm = demand.threshold(figures)
        in_flight = _too_many_in_flight(sample, figures)
        if demand.slot_requests * 60_000 < rpm * (now_ms - demand.slot_ms) and in_flight == 0:
            demand.over_ms = 0
            return None
        if demand.over_ms == 0:
            demand.over_ms = demand.slot_ms
            demand.over_requests, demand.over_in_flight = 0, in_flight
        demand.over_requests += demand.slot_requests
        demand.over_in_flight = min(demand.over_in_flight, in_flight)
        for_ms = now_ms - demand.over_ms
        # Requests that are under way stay where they are: further copies are for those that come.
        if for_ms < _SUSTAINED_MS or demand.slot_requests == 0:
            return None
        if demand.over_in_flight:
            limit = sample.max_concurrency or figures.in_flight_threshold
            return Overload(model_id, Cause.CONCURRENCY, demand.over_in_flight, limit, for_ms)
        expected = rpm * for_ms / 60_000
        if demand.over_requests < expected + _DEVIATIONS * sqrt(expected):
            return None
        return Overload(model_id, Cause.RATE, int(demand.over_requests * 60_000 / for_ms), rpm, for_ms)

    def end_interval(self, now_ms: int) -> tuple[list[Overload], list[str]]:
        """Ends an interval.

        Returns: the copies whose rate over it reached the threshold, and the models whose use recurs: used in it, and
            once before at the distance that the figures give.
        """
        figures = self._figures()
        overloads, recurring = [], []
        unfinished: dict[str, None] = {}
        self.busiest_percent = 0
        for model_id in self._used:
            demand = self._demands[model_id]
            if demand.used:
                demand.used = False
                _note_use(demand, now_ms, figures)
                if _recurs(demand, figures):
                    recurring.append(model_id)
            span_ms = now_ms - demand.began_ms
            if span_ms < figures.interval_ms // 2:
                unfinished[model_id] = None
                continue
            rpm, threshold = demand.requests * 60_000 // span_ms, demand.threshold(figures)
            self.busiest_percent = max(self.busiest_percent, 100 * rpm // threshold)
            if rpm >= threshold:
                overloads.append(Overload(model_id, Cause.RATE, rpm, threshold, span_ms))
            _move_window(demand, now_ms // figures.calm_ms)
            demand.peak = max(demand.peak, rpm)
            demand.rpm, demand.ended_ms, demand.began_ms, demand.requests = rpm, now_ms, now_ms, 0
            demand.earlier_answers, demand.answers = demand.answers, 0
            demand.earlier_service_ms, demand.service_ms = demand.service_ms, 0.0
            demand.earlier_queued, demand.queued = demand.queued, 0
        self._used = unfinished
        self._began_ms = now_ms
        self._intervals += 1
        if self._intervals % _SWEEP_INTERVALS == 0:
            self._sweep(now_ms - max(figures.second_copy_max_age_ms, figures.calm_ms))
        return overloads, recurring

    def loaded(self, model_id: str, now_ms: int) -> None:
        """There is a new copy here: what is asked of it at first is what has waited for it."""
        demand = self._demands.setdefault(model_id, _Demand(now_ms))
        demand.judged_from_ms = now_ms + _CATCHING_UP_MS
        demand.restart(demand.judged_from_ms)
        self._used[model_id] = None

    def copies_changed(self, model_id: str, now_ms: int) -> None:
        """There are more or fewer copies of a model: what this one was asked until now says little any more."""
        if (demand := self._demands.get(model_id)) is not None:
            demand.restart(now_ms)

    def view(self, model_id: str, now_ms: int) -> DemandView:
        """Returns: what the copy here was asked lately."""
        figures = self._figures()
        demand = self._demands.get(model_id)
        if demand is None:
            return DemandView(0, figures.rpm_threshold, 0, 0)
        _move_window(demand, now_ms // figures.calm_ms)
        fresh = now_ms - demand.ended_ms < 2 * figures.interval_ms
        return DemandView(
            rpm=demand.rpm if fresh else 0,
            threshold=demand.threshold(figures),
            peak_rpm=max(demand.peak, demand.earlier_peak),
            queued=demand.earlier_queued if fresh else 0,
        )

    def __len__(self) -> int:
        return len(self._demands)

    def _sweep(self, before_ms: int) -> None:
        for model_id in [
            model_id
            for model_id, demand in self._demands.items()
            if model_id not in self._used and demand.ended_ms < before_ms
        ]:
            del self._demands[model_id]


def _too_many_in_flight(sample: Sample, figures: ScalingFigures) -> int:
    """The requests in flight where they are more than a copy is to have, else 0."""
    if sample.max_concurrency:
        return sample.in_flight if sample.queued else 0
    return sample.in_flight if 0 < figures.in_flight_threshold <= sample.in_flight else 0


def _move_window(demand: _Demand, window: int) -> None:
    if window > demand.window:
        demand.earlier_peak = demand.peak if window == demand.window + 1 else 0
        demand.window, demand.peak = window, 0


def _note_use(demand: _Demand, now_ms: int, figures: ScalingFigures) -> None:
    slot = now_ms // figures.interval_ms
    kept = figures.second_copy_max_age_ms // figures.interval_ms + 1
    demand.uses = (demand.uses << min(kept, slot - demand.uses_slot) | 1) & ((1 << kept) - 1)
    demand.uses_slot = slot


def _recurs(demand: _Demand, figures: ScalingFigures) -> bool:
    return demand.uses >> (figures.second_copy_min_age_ms // figures.interval_ms) != 0
