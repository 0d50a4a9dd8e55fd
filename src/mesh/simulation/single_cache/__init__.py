"""One instance's cache alone: what each way of choosing victims costs on a trace, beside the best there could be."""

from mesh.simulation.single_cache.optimum import belady, least_cold_start
from mesh.simulation.single_cache.replay import Replayed, replay
from mesh.simulation.single_cache.study import Case, Finding, compare, study

__all__ = ["Case", "Finding", "Replayed", "belady", "compare", "least_cold_start", "replay", "study"]
