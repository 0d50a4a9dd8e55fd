"""A mesh in simulated time: the real decisions, driven by made or recorded requests, for any number of instances.

Times are microseconds of simulated time; decisions get them as epoch milliseconds.
"""

from mesh.simulation.files import InvalidTrace, read_trace, write_trace
from mesh.simulation.generate import DAY_S, Workload, generate
from mesh.simulation.page import page
from mesh.simulation.planner import Goal, Plan, plan
from mesh.simulation.report import Latencies, Report
from mesh.simulation.scenario import Scenario
from mesh.simulation.trace import Trace, TracedModel
from mesh.simulation.trial import Verdict, try_seed
from mesh.simulation.usage_logs import trace_of
from mesh.simulation.world import World

__all__ = [
    "DAY_S",
    "Goal",
    "InvalidTrace",
    "Latencies",
    "Plan",
    "Report",
    "Scenario",
    "Trace",
    "TracedModel",
    "Verdict",
    "Workload",
    "World",
    "generate",
    "page",
    "plan",
    "read_trace",
    "trace_of",
    "try_seed",
    "write_trace",
]
