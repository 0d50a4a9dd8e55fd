"""Example models are trained once for all tests of the command line."""

import os
from pathlib import Path

import pytest

from mesh.cli.examples import Trained
from mesh.cli.laptop.training import train_examples


@pytest.fixture(scope="session")
def state_with_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory as a first `mesh up` leaves it."""
    import asyncio

    state = tmp_path_factory.mktemp("state")
    trained: list[Trained] = []
    asyncio.run(train_examples(state / "examples", dict(os.environ), trained.append))
    assert trained
    return state
