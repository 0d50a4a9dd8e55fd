"""The study behind the choice of an eviction policy: kinds of load, and what each policy makes of them."""

from dataclasses import dataclass, replace

from mesh.placement import EvictionPolicy, EvictionRanking, to_units
from mesh.simulation.generate import DAY_S, Workload, generate
from mesh.simulation.single_cache.optimum import belady, least_cold_start
from mesh.simulation.single_cache.replay import Replayed, replay

#: Of all models' memory, so much is there.
FITTING = 0.2


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load.

    Attributes:
        name: for people.
        workload: sizes are equal where ``size_spread`` is 0, load times where ``load_spread`` is 1.
        fitting: share of the models' memory that is there.
    """

    name: str
    workload: Workload
    fitting: float = FITTING

    @property
    def equal_sizes(self) -> bool:
        """Whether any two models take the same memory."""
        return self.workload.size_spread == 0

    @property
    def equal_load_times(self) -> bool:
        """Whether any two models load equally fast."""
        return self.workload.load_spread == 1


@dataclass(frozen=True, slots=True)
class Finding:
    """What the policies made of one case.

    Attributes:
        least_ms: below this no choice of victims can bring the time of all loads.
        belady_loads: least number of loads; None where models differ in size, for then it is not known.
    """

    case: Case
    lru: Replayed
    cost_aware: Replayed
    least_ms: float
    belady_loads: int | None

    @property
    def change(self) -> float:
        """By how much cost-aware eviction changes the time of all loads against LRU; below 0 is better."""
        return self.cost_aware.cold_start_ms / self.lru.cold_start_ms - 1

    @property
    def best_change(self) -> float:
        """By how much the best choice of victims could change it at most."""
        return self.least_ms / self.lru.cold_start_ms - 1


def compare(case: Case) -> Finding:
    """Replays a case with each policy."""
    trace = generate(case.workload)
    units = [to_units(model.size_bytes) for model in trace.traced]
    capacity = max(int(case.fitting * sum(units)), *units)
    return Finding(
        case,
        replay(trace, capacity, EvictionPolicy(EvictionRanking.LRU)),
        replay(trace, capacity, EvictionPolicy(EvictionRanking.COST_AWARE)),
        least_cold_start(trace, capacity),
        belady(trace, capacity // units[0]) if case.equal_sizes else None,
    )


def study(models: int = 2_000, requests: int = 200_000, seed: int = 0) -> tuple[Case, ...]:
    """Makes the cases: kinds of load with equal and different sizes, equal load times and ones that differ 100-fold.

    Args:
        models: of each case.
        requests: of each case, spread over four days and more.
        seed: draws all else.
    """
    # So that each model is asked for as often in a day whatever the numbers.
    rate = 0.5 * requests / 200_000
    steady = Workload(
        seed=seed,
        models=models,
        requests=requests,
        rate=rate,
        load_ms=3_000.0,
        size_spread=0.0,
        load_spread=1.0,
    )
    daily = replace(steady, day_s=DAY_S)
    loads = (
        *((f"Zipf {zipf}", replace(steady, zipf=zipf)) for zipf in (0.9, 1.0, 1.1)),
        ("daily, quiet nights", replace(daily, day_depth=0.8)),
        ("daily, silent nights", replace(daily, day_depth=1.0)),
        ("daily, a few busy hours", replace(daily, day_depth=1.0, day_sharpness=6.0)),
    )
    return tuple(
        Case(name, replace(workload, size_spread=size_spread, load_spread=load_spread))
        for name, workload in loads
        for size_spread in (0.0, 1.0)
        for load_spread in (1.0, 100.0)
    )
