"""Traces made from a few figures and a seed."""

from array import array
from bisect import insort
from dataclasses import dataclass
from itertools import accumulate
from math import cos, exp, log, pi
from random import Random

from mesh.simulation.trace import Trace, TracedModel

#: The length of a day that a diurnal trace repeats, seconds.
DAY_S = 86_400.0
#: Requests are drawn in blocks of so many.
_BLOCK = 10_000


@dataclass(frozen=True, slots=True)
class Workload:
    """Figures of a generated trace.

    Attributes:
        seed: everything that is drawn is drawn from it.
        models: in all.
        requests: in all, bursts and a cold start not counted.
        rate: requests in a second, on average.
        zipf: how uneven the models are asked for: the one of rank r as often as r to the power of minus this.
        day_s: length of a day, seconds; 0 for a steady rate.
        day_depth: how far the rate of each model falls at its quietest time, between 0 and 1.
        day_sharpness: the higher, the shorter each model's busy time of day; 1 for a sine.
        bursts: times at which one model gets many requests at once.
        burst_requests: in each of them.
        cold_at_once: so many models are each requested once in the first moment.
        size_bytes: median of the models' sizes.
        size_spread: standard deviation of the logarithm of the sizes; 0 for equal ones.
        load_ms: median time of a load.
        load_spread: the slowest load takes so many times as long as the fastest; 1 for equal ones.
        service_ms: median time of a request in the model server.
        service_spread: standard deviation of the logarithm of the service times.
        types: model types.
    """

    seed: int = 0
    models: int = 1_000
    requests: int = 100_000
    rate: float = 1_000.0
    zipf: float = 1.0
    day_s: float = 0.0
    day_depth: float = 0.8
    day_sharpness: float = 1.0
    bursts: int = 0
    burst_requests: int = 1_000
    cold_at_once: int = 0
    size_bytes: int = 64 << 20
    size_spread: float = 0.6
    load_ms: float = 1_000.0
    load_spread: float = 10.0
    service_ms: float = 5.0
    service_spread: float = 0.5
    types: int = 3

    def __post_init__(self) -> None:
        for name in ("models", "rate", "size_bytes", "load_ms", "service_ms", "load_spread", "types"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be above 0")
        if not 0 <= self.day_depth <= 1:
            raise ValueError(f"day_depth is {self.day_depth}, must be between 0 and 1")
        if self.cold_at_once > self.models:
            raise ValueError(f"cold_at_once is {self.cold_at_once}, must be at most the {self.models} models")


def generate(workload: Workload) -> Trace:
    """Makes a trace; the same workload always gives the same one."""
    random = Random(workload.seed)  # noqa: S311 - a trace is to be repeatable
    trace = Trace([_model(number, workload, random) for number in range(workload.models)])
    for number in range(workload.cold_at_once):
        trace.add(0, number)
    times, numbers = _steady(workload, random) if workload.day_s <= 0 else _diurnal(workload, random)
    if workload.bursts:
        times, numbers = _with_bursts(times, numbers, workload, random)
    trace.times_us.extend(times)
    trace.numbers.extend(numbers)
    return trace


def _model(number: int, workload: Workload, random: Random) -> TracedModel:
    size = workload.size_bytes * exp(random.gauss(0.0, workload.size_spread))
    # Even in the logarithm, so that the spread is the ratio of the extremes.
    load_ms = workload.load_ms * exp((random.random() - 0.5) * log(workload.load_spread))
    service_ms = workload.service_ms * exp(random.gauss(0.0, workload.service_spread))
    return TracedModel(
        f"model-{number:07d}",
        f"type-{number % workload.types}",
        max(1, int(size)),
        max(1, int(load_ms * 1_000)),
        max(1, int(service_ms * 1_000)),
    )


def _popularity(workload: Workload, random: Random) -> tuple[list[int], list[float]]:
    """The models in an order of their own, the most popular first, and the sums of their weights."""
    order = list(range(workload.models))
    random.shuffle(order)
    return order, list(accumulate((rank + 1) ** -workload.zipf for rank in range(workload.models)))


def _steady(workload: Workload, random: Random) -> "tuple[array[int], array[int]]":
    order, weights = _popularity(workload, random)
    times, numbers = array("q"), array("I")
    now_us, gap_us, left = 0.0, 1e6 / workload.rate, workload.requests
    ranks = range(workload.models)
    while left > 0:
        block = min(_BLOCK, left)
        left -= block
        for rank in random.choices(ranks, cum_weights=weights, k=block):
            now_us += random.expovariate(1.0) * gap_us
            times.append(int(now_us))
            numbers.append(order[rank])
    return times, numbers


def _diurnal(workload: Workload, random: Random) -> "tuple[array[int], array[int]]":
    """As steady, but each model has its own time of day: requests at its quiet time are left out."""
    order, weights = _popularity(workload, random)
    phases = [random.random() for _ in range(workload.models)]
    times, numbers = array("q"), array("I")
    kept_share = sum(_at_time_of_day(moment / 100, workload) for moment in range(100)) / 100
    now_us, gap_us = 0.0, 1e6 / workload.rate * kept_share
    ranks, day_us = range(workload.models), workload.day_s * 1e6
    while len(times) < workload.requests:
        for rank in random.choices(ranks, cum_weights=weights, k=_BLOCK):
            now_us += random.expovariate(1.0) * gap_us
            if random.random() < _at_time_of_day(now_us / day_us + phases[rank], workload):
                times.append(int(now_us))
                numbers.append(order[rank])
                if len(times) == workload.requests:
                    break
    return times, numbers


def _at_time_of_day(days: float, workload: Workload) -> float:
    """The rate of a model at a time of its day, in times of its rate when it is busiest."""
    wave = 0.5 - 0.5 * cos(2 * pi * days)
    return float((1.0 - workload.day_depth * wave) ** workload.day_sharpness)


def _with_bursts(
    times: "array[int]", numbers: "array[int]", workload: Workload, random: Random
) -> "tuple[array[int], array[int]]":
    """Adds bursts: each within a second, of one model."""
    end_us = times[-1] if times else 0
    added: list[tuple[int, int]] = []
    for _ in range(workload.bursts):
        begin_us, number = random.randrange(end_us + 1), random.randrange(workload.models)
        for _ in range(workload.burst_requests):
            insort(added, (begin_us + random.randrange(1_000_000), number))
    merged = sorted([*zip(times, numbers, strict=True), *added])
    return array("q", (time for time, _ in merged)), array("I", (number for _, number in merged))
