import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli import words
from mesh.protos import admin_pb2, peer_pb2


def test_sizes_are_in_mib() -> None:
    assert words.size(0) == "0 MiB"
    assert words.size(10) == "< 0.1 MiB"
    assert words.size(9 * words.MIB + words.MIB // 2) == "9.5 MiB"
    assert words.size(2048 * words.MIB) == "2,048 MiB"


@given(st.integers(1, 1 << 50), st.integers(1, 1 << 50))
def test_a_larger_size_never_reads_smaller(one: int, other: int) -> None:
    def number(text: str) -> float:
        return 0.0 if text.startswith("<") else float(text.removesuffix(" MiB").replace(",", ""))

    small, large = sorted((one, other))
    assert number(words.size(small)) <= number(words.size(large))


def test_ages() -> None:
    now = 10_000_000_000
    assert words.ago(0, now) == "never"
    assert words.ago(now - 200, now) == "now"
    assert words.ago(now + 5_000, now) == "now"
    assert words.ago(now - 3_000, now) == "3 s ago"
    assert words.ago(now - 61_000, now) == "1 min ago"
    assert words.ago(now - 7_500_000, now) == "2 h 5 min ago"
    assert words.ago(now - 90_000_000, now) == "1 d 1 h ago"


@given(st.integers(0, 1 << 45))
def test_durations_have_two_units_at_most(milliseconds: int) -> None:
    assert re.fullmatch(r"\d+ (s|min|h|d)( \d+ (min|h))?", words.duration(milliseconds))


def test_every_state_has_words() -> None:
    for state in peer_pb2.CopyState.values():
        assert not words.state(state).startswith("state ")
    assert words.state(99) == "state 99"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "words_of_it"),
    [
        (admin_pb2.Policy(), ""),
        (admin_pb2.Policy(min_copies=1, max_copies=1), "1 copy"),
        (admin_pb2.Policy(min_copies=2), "at least 2 copies"),
        (
            admin_pb2.Policy(min_copies=2, max_copies=4, pinned=True),
            "at least 2 and at most 4 copies, pinned",
        ),
        (
            admin_pb2.Policy(priority=-3, idle_ttl_ms=1_500, declared_size_bytes=3 << 20),
            "priority -3, unloaded when idle for 1.5 s, 3.0 MiB a copy",
        ),
    ],
)
def test_policies(told: admin_pb2.Policy, words_of_it: str) -> None:
    assert words.policy(told) == words_of_it


def test_counts() -> None:
    assert [words.count(number, "copy") for number in (0, 1, 2)] == ["0 copies", "1 copy", "2 copies"]
    assert words.count(1_200, "model") == "1,200 models"


def test_latencies() -> None:
    assert [words.latency(seconds) for seconds in (0.00085, 0.0032, 1.44)] == ["850 µs", "3.2 ms", "1.4 s"]
