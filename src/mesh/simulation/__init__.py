"""A mesh in simulated time: the real decisions, driven by made or recorded requests, for any number of instances.

Times are microseconds of simulated time; decisions get them as epoch milliseconds.
"""

from mesh.simulation.generate import DAY_S, Workload, generate
from mesh.simulation.report import Latencies, Report
from mesh.simulation.scenario import Scenario
from mesh.simulation.trace import Trace, TracedModel
from mesh.simulation.trial import Verdict, try_seed
from mesh.simulation.world import World

__all__ = [
    "DAY_S",
    "Latencies",
    "Report",
    "Scenario",
    "Trace",
    "TracedModel",
    "Verdict",
    "Workload",
    "World",
    "generate",
    "try_seed",
]
