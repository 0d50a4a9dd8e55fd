"""How many instances of which size a load needs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from mesh.simulation.report import Report
from mesh.simulation.scenario import Scenario
from mesh.simulation.trace import Trace
from mesh.simulation.world import World


@dataclass(frozen=True, slots=True)
class Goal:
    """What a mesh is to reach once it has warmed up.

    Attributes:
        share: of the requests that are to be fast enough, between 0 and 1.
        latency_us: within which they are to be served.
        failed_share: of the requests that may fail.
        warm_up_share: of the trace, which is run and not counted.
    """

    share: float = 0.99
    latency_us: int = 100_000
    failed_share: float = 0.0
    warm_up_share: float = 0.5

    def reached(self, report: Report) -> bool:
        """Tells whether a run reached it."""
        return (
            report.latencies.quantile_us(self.share) <= self.latency_us
            and report.failures <= self.failed_share * report.requests
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The smallest mesh of one size of instances that reaches a goal.

    Attributes:
        instances: how many; 0 where the most that were tried do not reach it.
        report: of the run with that many, or with the most that were tried.
    """

    capacity_bytes: int
    instances: int
    report: Report


def plan(
    trace: Trace,
    scenario: Scenario,
    goal: Goal,
    capacities: Iterable[int],
    most: int,
    told: Callable[[int, int, bool], None] = lambda *_: None,
) -> Iterator[Plan]:
    """Looks for the fewest instances of each size that reach a goal.

    More instances are taken to be no worse, so that halving finds the fewest.

    Args:
        scenario: all else about the mesh.
        capacities: memory for models of an instance, bytes, to be tried.
        most: instances that are tried at most.
        told: is called after each run with capacity, instances, and whether the goal was reached.
    """
    for capacity in capacities:
        reports: dict[int, Report] = {}

        def reaches(instances: int, capacity: int = capacity, reports: dict[int, Report] = reports) -> bool:
            world = World(replace(scenario, instances=instances, capacity_bytes=capacity), trace)
            reports[instances] = world.run(warm_up_us=int(trace.duration_us * goal.warm_up_share))
            reached = goal.reached(reports[instances])
            told(capacity, instances, reached)
            return reached

        few, many = 0, 1
        while many < most and not reaches(many):
            few, many = many, min(2 * many, most)
        if many == most and many not in reports and not reaches(many):
            yield Plan(capacity, 0, reports[many])
            continue
        while many - few > 1:
            middle = (few + many) // 2
            if reaches(middle):
                many = middle
            else:
                few = middle
        yield Plan(capacity, many, reports[many])
