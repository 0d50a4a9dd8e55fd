"""Meshes to which things happen."""

import pytest

from mesh.simulation import try_seed

#: As many for each test, so that one that hangs is found by its number.
_PER_TEST = 20


@pytest.mark.parametrize("first", range(0, 200, _PER_TEST))
def test_no_schedule_of_faults_breaks_an_invariant(first: int) -> None:
    for seed in range(first, first + _PER_TEST):
        verdict = try_seed(seed)
        assert not verdict.broken, f"seed {seed}: {verdict.broken}; see it with mesh simulate replay {seed}"


def test_a_seed_replays_exactly() -> None:
    first, again = try_seed(41, remember=100_000), try_seed(41, remember=100_000)
    assert first.journal
    assert first.journal == again.journal
    assert first.report.rows() == again.report.rows()
