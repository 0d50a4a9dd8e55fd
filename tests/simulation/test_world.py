"""Runs as wholes."""

import os
import subprocess
import sys

import pytest

from mesh.simulation import Report, Scenario, Workload, World, generate


def run(seed: int) -> Report:
    workload = Workload(seed=seed, models=200, requests=5_000, rate=100)
    return World(Scenario(seed=seed, instances=5, capacity_bytes=2 << 30), generate(workload)).run()


def test_the_same_seed_gives_the_same_run() -> None:
    first, second, other = run(1), run(1), run(2)
    assert first.rows() == second.rows()
    assert first.latencies.distribution() == second.latencies.distribution()
    assert first.events == second.events
    assert first.rows() != other.rows()


#: Many models are asked too much in the same moment.
_BUSY = """
from mesh.simulation import Scenario, Workload, World, generate
workload = Workload(seed=1, models=24, requests=12_000, rate=850, zipf=0.1, load_ms=100)
report = World(Scenario(seed=1, instances=6), generate(workload)).run()
print(report.rows(), sorted(report.requests_by_instance.items()))
"""


def test_a_seed_gives_the_same_run_in_every_process() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-c", _BUSY],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(told) == 1


def test_every_request_ends() -> None:
    report = run(3)
    assert report.requests == 5_000


def test_what_fits_is_loaded_once_and_then_found() -> None:
    workload = Workload(models=50, requests=5_000, rate=500, size_bytes=8 << 20, load_ms=100)
    report = World(Scenario(instances=5), generate(workload)).run()
    assert report.failures == 0
    assert report.loads - report.copies_added <= 50
    assert not report.evictions
    assert report.hit_rate > 0.9


def test_unusable_figures_are_named() -> None:
    with pytest.raises(ValueError, match="instances is 0"):
        Scenario(instances=0)
    with pytest.raises(ValueError, match="day_depth is 2"):
        Workload(day_depth=2)
