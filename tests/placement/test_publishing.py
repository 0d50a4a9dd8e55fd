"""When the other instances are told."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from mesh.placement import NEVER_USED_MS, is_significant_change


@dataclass(frozen=True)
class Record:
    capacity: int = 10_000
    used: int = 5_000
    count: int = 100
    oldest_use: int = 1_800_000_000_000
    loading_threads: int = 4
    loads_in_progress: int = 1
    request_rate: int = 1_000
    shutting_down: bool = False
    type_rules: str = ""


WRITTEN = Record()


@pytest.mark.parametrize(
    "changes",
    [
        {"shutting_down": True},
        {"capacity": 9_000},
        {"used": 5_201},
        {"used": 9_600},
        {"loads_in_progress": 0},
        {"loads_in_progress": 4},
        {"loading_threads": 2},
    ],
)
def test_what_steers_placements_is_told_at_once(changes: dict[str, Any]) -> None:
    assert is_significant_change(WRITTEN, replace(WRITTEN, **changes), 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 110},
        {"count": 85},
        {"request_rate": 1_150},
        {"oldest_use": WRITTEN.oldest_use + 20_000},
        {"oldest_use": NEVER_USED_MS},
    ],
)
def test_other_changes_are_told_with_patience(changes: dict[str, Any]) -> None:
    changed = replace(WRITTEN, **changes)
    assert not is_significant_change(WRITTEN, changed, 1_999)
    assert is_significant_change(WRITTEN, changed, 2_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"used": 5_050},
        {"count": 109},
        {"request_rate": 1_099},
        {"oldest_use": WRITTEN.oldest_use + 19_999},
        {"loads_in_progress": 3},
    ],
)
def test_small_changes_wait_until_the_record_is_old(changes: dict[str, Any]) -> None:
    changed = replace(WRITTEN, **changes)
    assert not is_significant_change(WRITTEN, changed, 160_000)
    assert is_significant_change(WRITTEN, changed, 160_001)


def test_nothing_changed_is_never_told() -> None:
    assert not is_significant_change(WRITTEN, replace(WRITTEN), 10**9)
