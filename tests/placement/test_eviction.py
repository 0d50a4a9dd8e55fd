"""Who is evicted: by last use, by what it would cost to load again, and by what its owner wishes."""

import pytest

from mesh.placement import (
    EvictionPolicy,
    EvictionRanking,
    LoadFinished,
    ProtectionChanged,
    Refusal,
    ReportEvicted,
    ReportRefused,
    StartLoad,
    StartUnload,
    Tick,
    UnloadFinished,
    Used,
)
from mesh.placement.entries import Entry
from mesh.placement.victims import EvictionOrder
from tests.placement.shell import Shell, limits

BY_COST = EvictionPolicy(EvictionRanking.COST_AWARE)
SECOND = 1_000


def _load(shell: Shell, model_id: str, *, units: int = 10, load_ms: int = 1_000) -> list[str]:
    """Loads a model; returns who was evicted for it."""
    shell.request(model_id, units)
    evicted = [report.model_id for report in shell.seen(ReportEvicted)]
    for unload in shell.seen(StartUnload):
        shell.send(UnloadFinished(unload.model_id))
    (start,) = (start for start in shell.seen(StartLoad) if start.model_id == model_id)
    shell.send(LoadFinished(model_id, start.load_id, units, load_ms))
    shell.take(StartLoad)
    shell.now += 10 * SECOND
    return evicted


def _use(shell: Shell, model_id: str, times: int = 1) -> None:
    for _ in range(times):
        shell.send(Used(model_id, shell.now), after_ms=2 * SECOND)


def _fill(shell: Shell, slow: str = "") -> None:
    for name in "abcdefghi":
        _load(shell, name, load_ms=60_000 if name in slow else 1_000)


def test_what_takes_long_to_load_stays_longer() -> None:
    shell = Shell(policy=BY_COST)
    _fill(shell, slow="ac")
    evicted = [victim for name in "qrstuvw" for victim in _load(shell, name)]
    assert evicted == list("bdefghi")


def test_the_default_is_the_order_of_use_whatever_loads_take() -> None:
    shell = Shell()
    _fill(shell, slow="ac")
    assert [victim for name in "qrs" for victim in _load(shell, name)] == list("abc")


def test_where_loads_take_the_same_it_is_the_order_of_use() -> None:
    shell = Shell(policy=BY_COST)
    _fill(shell)
    assert [victim for name in "qrs" for victim in _load(shell, name)] == list("abc")


def test_a_worthy_copy_that_is_not_used_any_more_goes_in_the_end() -> None:
    shell = Shell(policy=BY_COST)
    _fill(shell, slow="a")
    evicted = [victim for number in range(600) for victim in _load(shell, f"once-{number}")]
    assert 100 < evicted.index("a") < 550


def _loads_of_the_popular(ranking: EvictionRanking) -> int:
    """Four models are used between every three that are used once and never again: too many for the room there is."""
    shell = Shell(policy=EvictionPolicy(ranking))
    loads = 0
    for turn in range(400):
        name = f"popular-{turn % 4}"
        if name in shell.cache:
            _use(shell, name)
        else:
            _load(shell, name)
            loads += 1
        for number in range(3):
            _load(shell, f"once-{turn}-{number}")
    return loads


def test_models_that_come_back_are_kept_over_those_that_do_not() -> None:
    assert _loads_of_the_popular(EvictionRanking.LRU) == 400
    assert _loads_of_the_popular(EvictionRanking.COST_AWARE) < 200


def test_requests_that_come_together_count_as_one_use() -> None:
    shell = Shell(policy=BY_COST)
    for name in "ab":
        _load(shell, name, units=40)
    for _ in range(1_000):
        shell.send(Used("a", shell.now))
    shell.now += SECOND
    _use(shell, "b", 3)
    shell.take(ReportEvicted)
    for number in range(3):
        shell.request(f"m{number}", 10)
    assert {report.model_id for report in shell.seen(ReportEvicted)} == {"a"}


def test_a_large_copy_goes_before_small_ones_that_load_as_fast() -> None:
    shell = Shell(policy=BY_COST)
    for number in range(4):
        _load(shell, f"small-{number}", units=10)
    _load(shell, "large", units=45)
    assert _load(shell, "new", units=10) == ["large"]


def test_a_copy_in_recent_use_is_passed_over_and_an_older_one_goes_that_is_worth_more() -> None:
    shell = Shell(limits(min_churn_age_ms=60 * SECOND), BY_COST)
    _fill(shell, slow="a")
    for name in "bcdefghi":
        shell.send(Used(name, shell.now))
    assert _load(shell, "new") == ["a"]


def test_the_guard_against_churn_refuses_where_all_copies_are_in_recent_use() -> None:
    shell = Shell(limits(min_churn_age_ms=600 * SECOND), BY_COST)
    _fill(shell, slow="a")
    shell.request("new", 10)
    (refused,) = shell.seen(ReportRefused)
    assert refused.reason is Refusal.CHURN
    assert refused.retry_elsewhere
    assert "less than 600 s" in refused.message


def test_many_copies_in_recent_use_are_not_looked_at_for_every_load(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = 2_000
    shell = Shell(limits(capacity=copies, unload_buffer=10, min_churn_age_ms=3_600 * SECOND), BY_COST)
    for number in range(copies - 10):
        _load(shell, f"m{number}", units=1)
        shell.now -= 10 * SECOND
    looked_at = 0
    pop = EvictionOrder.pop

    def counted(order: EvictionOrder, used_after_ms: int) -> object:
        nonlocal looked_at
        looked_at += 1
        return pop(order, used_after_ms)

    monkeypatch.setattr(EvictionOrder, "pop", counted)
    for number in range(100):
        shell.request(f"new-{number}", 1)
    assert len(shell.seen(ReportRefused)) == 100
    assert looked_at <= 300


def test_while_nothing_can_go_it_is_seldom_looked_for_and_what_may_go_goes_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches = 0
    pop = EvictionOrder.pop

    def counted(order: EvictionOrder, used_after_ms: int) -> Entry | None:
        nonlocal searches
        entry = pop(order, used_after_ms)
        searches += entry is None
        return entry

    monkeypatch.setattr(EvictionOrder, "pop", counted)
    shell = Shell(limits(just_loaded_ms=5 * SECOND))
    for name in "abcdefghi":
        shell.load(name, 10)
    shell.request("j", 10)
    searches = 0
    for _ in range(49):
        shell.send(Tick(), after_ms=100)
    assert not shell.seen(ReportEvicted)
    assert 5 <= searches <= 15
    shell.send(Tick(), after_ms=100)
    assert [report.model_id for report in shell.seen(ReportEvicted)] == ["a"]


@pytest.mark.parametrize("ranking", EvictionRanking)
def test_lower_priorities_go_first(ranking: EvictionRanking) -> None:
    shell = Shell(policy=EvictionPolicy(ranking))
    shell.send(ProtectionChanged("a", 5, pinned=False))
    _fill(shell)
    shell.send(ProtectionChanged("i", -5, pinned=False))
    assert [victim for name in "qrs" for victim in _load(shell, name)] == ["i", "b", "c"]
    shell.send(ProtectionChanged("a", 0, pinned=False))
    assert _load(shell, "t") == ["a"]


@pytest.mark.parametrize("ranking", EvictionRanking)
def test_a_pinned_copy_stays_until_it_is_pinned_no_more(ranking: EvictionRanking) -> None:
    shell = Shell(policy=EvictionPolicy(ranking))
    _load(shell, "pinned", units=80)
    shell.send(ProtectionChanged("pinned", 0, pinned=True))
    _load(shell, "a", units=10)
    assert _load(shell, "b", units=10) == ["a"]
    shell.request("large", 50)
    (refused,) = shell.seen(ReportRefused)
    assert refused.reason is Refusal.NO_ROOM
    shell.take(ReportRefused)
    shell.send(ProtectionChanged("pinned", 0, pinned=False))
    assert _load(shell, "large", units=50) == ["pinned"]


def test_the_reason_of_an_eviction_tells_what_the_copy_was_worth() -> None:
    shell = Shell(policy=BY_COST)
    _load(shell, "a", units=90, load_ms=2_500)
    _use(shell, "a", 3)
    shell.request("b", 20)
    (report,) = shell.seen(ReportEvicted)
    assert report.why == "least worth keeping: 720.0 KiB, 2.5 s to load, 4 uses"
