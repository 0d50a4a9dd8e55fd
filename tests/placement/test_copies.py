"""Models get copies as their load asks for them, lose those that they can do without, and never fall short."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.placement import CopyPolicy, InstanceView
from mesh.placement.copies import (
    Cause,
    CopiesNow,
    CopyHere,
    Demands,
    DemandView,
    Growth,
    MoveKind,
    Overload,
    Sample,
    ScalingFigures,
    SurplusKind,
    find_surplus,
    for_load,
    for_minimum,
    for_recurring_use,
    not_as_busy,
    plan_moves,
)
from mesh.placement.ranking import ClusterStats
from mesh.placement.view import PlacementRequest
from mesh.registry import ModelRecord, ResignCopy

NOW = 1_800_000_000_000
MINUTE, HOUR = 60_000, 3_600_000
FIGURES = ScalingFigures()
ROOMY = ClusterStats(instances=10, capacity_units=1_000, free_units=500, oldest_used_ms=NOW - HOUR)
FULL = replace(ROOMY, free_units=40)
CALM = DemandView(rpm=100, threshold=2_000, peak_rpm=100, queued=0)
SAMPLE_MS = 250


def view(name: str, *, used: int = 500, rpm: int = 0, leaving: bool = False) -> InstanceView:
    return InstanceView(name, 1_000, used, requests_per_minute=rpm, shutting_down=leaving)


def copy_here(model_id: str = "m", **changes: Any) -> CopyHere:
    copy = CopyHere(
        model_id,
        units=10,
        last_used_ms=NOW,
        since_ms=NOW - 2 * HOUR,
        in_flight=0,
        others={},
        last_unload_ms=0,
        policy=CopyPolicy(),
        demand=CALM,
        stats=ROOMY,
    )
    return replace(copy, **changes)


# Demand


@dataclass
class Crowd:
    """One model on many instances: requests arrive at random and go to all loaded copies alike."""

    instances: int
    seed: int = 1
    load_ms: int = 3_000
    figures: ScalingFigures = FIGURES
    now_ms: int = NOW
    copies: dict[str, int] = field(default_factory=lambda: {"i0": NOW - HOUR})
    demands: dict[str, Demands] = field(default_factory=dict)
    used_ms: dict[str, int] = field(default_factory=dict)
    growths: list[tuple[int, Growth]] = field(default_factory=list)
    most: int = 1
    last_unload_ms: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    def run(self, for_ms: int, rpm: Callable[[int], float]) -> None:
        """Goes on for a while; ``rpm`` is asked with the milliseconds since it began."""
        began_ms = self.now_ms
        while self.now_ms < began_ms + for_ms:
            self.now_ms += SAMPLE_MS
            loaded = [
                name for name, since_ms in self.copies.items() if since_ms + self.load_ms <= self.now_ms
            ]
            mean = rpm(self.now_ms - began_ms) * SAMPLE_MS / 60_000
            for name in loaded:
                requests = self._poisson(mean / len(loaded))
                if requests:
                    self.used_ms[name] = self.now_ms
                    overload = self._demands_of(name).note("m", Sample(requests), self.now_ms)
                    self._relieve(overload, loaded)
            if self.now_ms % self.figures.interval_ms == 0:
                self._look(loaded)

    def _look(self, loaded: list[str]) -> None:
        for name in loaded:
            overloads, _ = self._demands_of(name).end_interval(self.now_ms)
            for overload in overloads:
                self._relieve(overload, loaded)
        names = {f"i{number}": view(f"i{number}") for number in range(self.instances)}
        for name in loaded:
            here = copy_here(
                last_used_ms=self.used_ms.get(name, 0),
                since_ms=self.copies[name],
                others={other: since for other, since in self.copies.items() if other != name},
                last_unload_ms=self.last_unload_ms,
                demand=self._demands_of(name).view("m", self.now_ms),
            )
            for surplus in find_surplus([here], names[name], names, self.now_ms, self.figures):
                assert len(self.copies) - 1 >= surplus.keep
                del self.copies[name]
                self.last_unload_ms = self.now_ms
                self._changed()

    def _relieve(self, overload: Overload | None, loaded: list[str]) -> None:
        if overload is None:
            return
        now = CopiesNow(len(loaded), len(self.copies) - len(loaded), self.instances, CopyPolicy())
        growth = for_load(overload, now, overload.amount * (len(loaded) - 1))
        if growth is None:
            if now.loading:
                self._changed()
            return
        self.growths.append((self.now_ms, growth))
        for number in range(self.instances):
            if len(self.copies) < growth.copies:
                self.copies.setdefault(f"i{number}", self.now_ms)
        self.most = max(self.most, len(self.copies))
        self._changed()

    def _changed(self) -> None:
        for demands in self.demands.values():
            demands.copies_changed("m", self.now_ms)

    def _demands_of(self, name: str) -> Demands:
        return self.demands.setdefault(name, Demands(lambda: self.figures))

    def _poisson(self, mean: float) -> int:
        count, left = 0, self.random.expovariate(1)
        while left < mean:
            count += 1
            left += self.random.expovariate(1)
        return count


@settings(max_examples=60, deadline=None)
@given(
    factor=st.floats(3, 30),
    phase_ms=st.integers(0, 9_999),
    quiet=st.floats(0, 0.5),
    seed=st.integers(0, 999),
)
def test_a_sudden_load_is_answered_within_a_second(
    factor: float, phase_ms: int, quiet: float, seed: int
) -> None:
    crowd = Crowd(6, seed)
    crowd.run(20_000 + phase_ms // SAMPLE_MS * SAMPLE_MS, lambda _: quiet * FIGURES.rpm_threshold)
    assert crowd.growths == []
    began_ms = crowd.now_ms
    crowd.run(1_000, lambda _: factor * FIGURES.rpm_threshold)
    assert crowd.growths
    at_ms, growth = crowd.growths[0]
    assert at_ms <= began_ms + 1_000
    assert growth.copies >= 2


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 0.7), seed=st.integers(0, 9_999))
def test_a_load_that_one_copy_can_take_adds_nothing(share: float, seed: int) -> None:
    crowd = Crowd(6, seed)
    crowd.run(120_000, lambda _: share * FIGURES.rpm_threshold)
    assert crowd.growths == []


def test_a_slight_overload_is_answered_after_an_interval() -> None:
    crowd = Crowd(6)
    crowd.run(25_000, lambda _: 1.3 * FIGURES.rpm_threshold)
    assert len(crowd.copies) == 2


def test_a_moment_is_no_load() -> None:
    crowd = Crowd(6)
    crowd.run(60_000, lambda ms: 8 * FIGURES.rpm_threshold if ms % 10_000 < 500 else 0)
    assert crowd.growths == []


@pytest.mark.parametrize("factor", [1.5, 4.5, 9.5])
def test_copies_come_with_load_and_go_with_it(factor: float) -> None:
    crowd = Crowd(30)
    crowd.run(300_000, lambda _: factor * FIGURES.rpm_threshold)
    assert factor <= len(crowd.copies) <= 2 * factor + 1, "each copy takes its part, and few more are there"
    grown = len(crowd.growths)
    # With a quarter of the load they go, one by one and not at once; none comes back.
    crowd.run(30 * MINUTE, lambda _: 0.2 * factor * FIGURES.rpm_threshold)
    before = len(crowd.copies)
    crowd.run(2 * HOUR, lambda _: 0.2 * factor * FIGURES.rpm_threshold)
    assert len(crowd.growths) == grown
    assert len(crowd.copies) <= max(2, before)
    assert 0.2 * factor <= len(crowd.copies) <= max(2, 0.2 * factor * 2 + 1)
    # Two stay while they are used, one when they are not.
    crowd.run(3 * HOUR, lambda _: 10)
    assert len(crowd.copies) == 2
    crowd.run(2 * HOUR, lambda _: 0)
    assert len(crowd.copies) == 1


def test_requests_that_waited_for_a_load_are_no_reason_for_more_copies() -> None:
    demands = Demands(lambda: FIGURES)
    demands.loaded("m", NOW)
    herd = [Sample(150, in_flight=900 - 100 * number) for number in range(7)] + [
        Sample(0, in_flight=200)
    ] * 20
    for number, sample in enumerate(herd, 1):
        assert demands.note("m", sample, NOW + number * SAMPLE_MS) is None
    assert demands.end_interval(NOW + FIGURES.interval_ms) == ([], [])
    # What still comes after that is load.
    demands.loaded("m", NOW)
    assert steady(demands, Sample(50), for_ms=3_000)


def test_requests_under_way_are_no_reason_without_new_ones() -> None:
    demands = Demands(lambda: FIGURES)
    assert not steady(demands, Sample(300, in_flight=300), for_ms=SAMPLE_MS)
    assert not steady(demands, Sample(0, in_flight=300), for_ms=20_000, began_ms=NOW + SAMPLE_MS)
    assert steady(demands, Sample(1, in_flight=300), for_ms=2_000, began_ms=NOW + 20_250)


def steady(demands: Demands, sample: Sample, *, for_ms: int, began_ms: int = NOW) -> list[Overload]:
    times = range(began_ms + SAMPLE_MS, began_ms + for_ms + 1, SAMPLE_MS)
    found = (demands.note("m", sample, now_ms) for now_ms in times)
    return [overload for overload in found if overload is not None]


def test_requests_in_flight_add_copies_where_the_rate_is_low() -> None:
    overloads = steady(Demands(lambda: FIGURES), Sample(2, in_flight=230), for_ms=1_000)
    assert overloads[0].cause is Cause.CONCURRENCY
    assert overloads[0].further_copies == 2
    assert str(overloads[0]) == "230 requests in flight for 0.8 s, where one copy is to take 100"
    assert not steady(Demands(lambda: FIGURES), Sample(2, in_flight=99), for_ms=5_000)
    anything = replace(FIGURES, in_flight_threshold=0)
    assert not steady(Demands(lambda: anything), Sample(2, in_flight=10_000), for_ms=5_000)


def test_a_limited_copy_is_judged_by_its_queue_and_by_what_it_can_take() -> None:
    waiting = Sample(1, in_flight=9, queued=5, max_concurrency=4)
    overloads = steady(Demands(lambda: FIGURES), waiting, for_ms=1_000)
    assert (overloads[0].cause, overloads[0].threshold, overloads[0].further_copies) == (
        Cause.CONCURRENCY,
        4,
        2,
    )
    busy = Sample(1, in_flight=4, max_concurrency=4)
    assert not steady(Demands(lambda: FIGURES), busy, for_ms=5_000)
    # 4 at once, 100 ms each: 2,400 a minute, of which 90 % are to be used.
    assert FIGURES.copy_rpm(4, 10, 1_000) == 2_160
    assert FIGURES.copy_rpm(4, 7, 700) == 2_000, "too few answers tell no latency"
    assert FIGURES.copy_rpm(0, 100, 1_000) == 2_000
    demands = Demands(lambda: FIGURES)
    quick = Sample(5, answers=5, service_ms=2_000, max_concurrency=1)
    (overload, *_) = steady(demands, quick, for_ms=10_000)
    assert overload.threshold == int(60_000 / 400 * 0.9)


def test_thresholds_may_change_meanwhile() -> None:
    figures = [FIGURES]
    demands = Demands(lambda: figures[0])
    assert not steady(demands, Sample(5), for_ms=2_000)
    figures[0] = replace(FIGURES, rpm_threshold=500)
    assert steady(demands, Sample(5), for_ms=2_000, began_ms=NOW + 2_000)


def use(demands: Demands, at_ms: int) -> list[str]:
    demands.note("m", Sample(1), at_ms)
    return demands.end_interval(at_ms + 5_000)[1]


@pytest.mark.parametrize(
    ("minutes", "recurs"), [((0,), False), ((0, 5), False), ((0, 9), True), ((0, 38), True), ((0, 42), False)]
)
def test_use_recurs_when_it_comes_back_after_seven_to_forty_minutes(
    minutes: tuple[int, ...], *, recurs: bool
) -> None:
    demands = Demands(lambda: FIGURES)
    found: list[str] = []
    for minute in minutes:
        found = use(demands, NOW + minute * MINUTE)
    assert found == (["m"] if recurs else [])


def test_what_was_not_used_for_long_is_forgotten() -> None:
    demands = Demands(lambda: FIGURES)
    for number in range(100):
        demands.note(f"m{number}", Sample(1), NOW)
    for interval in range(400):
        demands.end_interval(NOW + interval * FIGURES.interval_ms)
    assert len(demands) == 0


# Growth


def now(**changes: Any) -> CopiesNow:
    return replace(CopiesNow(1, 0, 10, CopyPolicy()), **changes)


def overload(rpm: int) -> Overload:
    return Overload("m", Cause.RATE, rpm, 2_000, 1_000)


@pytest.mark.parametrize(
    ("rpm", "copies", "grown"),
    [
        (2_000, now(), 2),
        (4_500, now(), 3),
        (40_000, now(), 4),  # a third of the instances at a time
        (40_000, now(possible=2), 2),
        (4_500, now(policy=CopyPolicy(max_copies=2)), 2),
        (4_500, now(policy=CopyPolicy(max_copies=1)), None),
        (4_500, now(possible=1), None),
        (4_500, now(loading=1), None),
        (4_500, now(loaded=2), 3),
        (4_500, now(loaded=4), None),  # the others have nothing to do
    ],
)
def test_copies_for_load(rpm: int, copies: CopiesNow, grown: int | None) -> None:
    growth = for_load(overload(rpm), copies)
    assert (growth and growth.copies) == grown


def test_what_is_asked_of_all_copies_decides() -> None:
    assert for_load(overload(2_100), now(loaded=4), 3 * 1_900) is None
    growth = for_load(overload(2_100), now(loaded=4), 3 * 2_000)
    assert growth is not None
    assert growth.copies == 5


def test_a_second_copy_costs_others_nothing() -> None:
    def second(stats: ClusterStats, **changes: Any) -> bool:
        return for_recurring_use("m", now(**changes), stats, NOW, FIGURES) is not None

    assert second(ROOMY)
    assert not second(FULL), "memory is short"
    assert second(replace(FULL, oldest_used_ms=NOW - 21 * HOUR)), "and what would go is not missed"
    assert not second(ROOMY, loading=1)
    assert not second(ROOMY, possible=1)
    assert not second(ROOMY, policy=CopyPolicy(max_copies=1))


@given(
    loaded=st.integers(0, 5),
    loading=st.integers(0, 5),
    possible=st.integers(0, 12),
    least=st.integers(0, 6),
    most=st.integers(0, 6),
    pinned=st.booleans(),
)
def test_minimum_copies_are_asked_for_exactly(
    *, loaded: int, loading: int, possible: int, least: int, most: int, pinned: bool
) -> None:
    policy = CopyPolicy(min_copies=least, max_copies=most and max(most, least, 1), pinned=pinned)
    copies = CopiesNow(loaded, loading, possible, policy)
    growth = for_minimum("m", copies)
    wanted = min(policy.kept_copies, possible)
    assert (growth.copies if growth else None) == (wanted if copies.all < wanted else None)


def test_an_instance_that_is_as_busy_is_no_help() -> None:
    condition = not_as_busy(10_000, 2_000)
    request = PlacementRequest("m")
    assert condition(view("a", rpm=8_000), request) == ""
    assert "is busy itself: its load is 8001" in condition(view("a", rpm=8_001), request)
    assert not_as_busy(50_000, 2_000)(view("a", rpm=46_000), request) == ""


# Surplus


PLACES = {name: view(name) for name in ("a", "b", "c", "d", "e")}


def surplus_of(copy: CopyHere, name: str = "b", figures: ScalingFigures = FIGURES) -> SurplusKind | None:
    found = find_surplus([copy], PLACES[name], PLACES, NOW, figures)
    return found[0].kind if found else None


OLD = NOW - 2 * HOUR
TWO, THREE = {"a": OLD}, {"a": OLD, "c": OLD}
UNUSED: dict[str, Any] = {"last_used_ms": NOW - 61 * MINUTE}
BUSY = replace(CALM, peak_rpm=1_400)
WIDE = replace(CALM, peak_rpm=1_100)


@pytest.mark.parametrize(
    ("copy", "kind"),
    [
        (copy_here(**UNUSED), None),
        (copy_here(others=TWO, **UNUSED), SurplusKind.SPARE),
        (copy_here(others=TWO, **UNUSED, in_flight=1), None),
        (copy_here(others=TWO, **UNUSED, since_ms=NOW - MINUTE), None),
        (copy_here(others=TWO, **UNUSED, policy=CopyPolicy(min_copies=2)), None),
        (copy_here(others=TWO, last_used_ms=NOW - 10 * MINUTE), None),
        # Short of memory, a tenth of the age of the oldest is enough.
        (copy_here(others=TWO, last_used_ms=NOW - 10 * MINUTE, stats=FULL), SurplusKind.SPARE),
        (copy_here(others=TWO, last_used_ms=NOW - 5 * MINUTE, stats=FULL), None),
        (copy_here(others=THREE), SurplusKind.CALM),
        (copy_here(others=THREE, last_unload_ms=NOW - 79_000), None),
        (copy_here(others=THREE, since_ms=NOW - 29 * MINUTE), None),
        (copy_here(others={"a": OLD, "c": NOW - MINUTE}), None),
        (copy_here(others=THREE, demand=replace(CALM, peak_rpm=1_900)), None),
        (copy_here(others=THREE, demand=replace(CALM, queued=2)), None),
        (copy_here(others=THREE, demand=BUSY), None),
        # A third of 3,300 a minute would be close to what would bring the copy back.
        (copy_here(others=THREE, demand=WIDE), None),
        (copy_here(others={**THREE, "d": OLD, "e": OLD}, demand=WIDE), SurplusKind.CALM),
        (copy_here(others=THREE, policy=CopyPolicy(min_copies=3)), None),
        (copy_here(others=TWO, policy=CopyPolicy(max_copies=1), since_ms=NOW), SurplusKind.MAXIMUM),
        (copy_here(others={"a": NOW}, policy=CopyPolicy(max_copies=1)), None),
        (copy_here(last_used_ms=NOW - MINUTE, policy=CopyPolicy(idle_ttl_ms=MINUTE)), SurplusKind.IDLE),
        (copy_here(last_used_ms=NOW - MINUTE, policy=CopyPolicy(idle_ttl_ms=MINUTE, pinned=True)), None),
        (
            copy_here(others=TWO, last_used_ms=NOW - MINUTE, policy=CopyPolicy(1, 0, False, 0, MINUTE)),
            SurplusKind.IDLE,
        ),
        (copy_here(last_used_ms=NOW - MINUTE + 1, policy=CopyPolicy(idle_ttl_ms=MINUTE)), None),
    ],
)
def test_which_copies_go(copy: CopyHere, kind: SurplusKind | None) -> None:
    assert surplus_of(copy) == kind


def test_of_two_unused_copies_the_one_at_the_fuller_instance_goes() -> None:
    places = {"a": view("a", used=300), "b": view("b", used=800)}
    found = [
        find_surplus([copy_here(others={other: OLD}, **UNUSED)], places[name], places, NOW, FIGURES)
        for name, other in (("a", "b"), ("b", "a"))
    ]
    assert [len(one) for one in found] == [0, 1]


def test_the_setting_unloads_what_has_no_time_of_its_own() -> None:
    figures = replace(FIGURES, idle_ttl_ms=MINUTE)
    assert surplus_of(copy_here(last_used_ms=NOW - MINUTE), figures=figures) is SurplusKind.IDLE
    own = CopyPolicy(idle_ttl_ms=HOUR)
    assert surplus_of(copy_here(last_used_ms=NOW - MINUTE, policy=own), figures=figures) is None


def test_one_look_takes_a_little_and_the_longest_unused_first() -> None:
    copies = [
        copy_here(f"m{number}", others=TWO, last_used_ms=NOW - 2 * HOUR - number, units=30)
        for number in range(9)
    ]
    found = find_surplus(copies, PLACES["b"], PLACES, NOW, FIGURES)
    assert [surplus.model_id for surplus in found] == ["m8"]


ages = st.integers(0, 3 * HOUR)


@settings(deadline=None)
@given(
    used=st.lists(ages, min_size=1, max_size=5),
    loaded=st.lists(ages, min_size=5, max_size=5),
    least=st.integers(0, 5),
    most=st.integers(0, 5),
    pinned=st.booleans(),
    ttl=st.sampled_from([0, MINUTE, HOUR]),
    free=st.integers(0, 1_000),
)
def test_copies_that_all_decide_at_once_leave_enough(
    *, used: list[int], loaded: list[int], least: int, most: int, pinned: bool, ttl: int, free: int
) -> None:
    policy = CopyPolicy(least, most and max(most, least, 1), pinned, 0, ttl)
    names = list(PLACES)[: len(used)]
    since = {name: NOW - age for name, age in zip(names, loaded, strict=False)}
    record = ModelRecord(copies=since)
    stats = replace(ROOMY, free_units=free)
    decided = []
    for name, age in zip(names, used, strict=True):
        copy = copy_here(
            others={other: since[other] for other in names if other != name},
            last_used_ms=NOW - age,
            since_ms=since[name],
            policy=policy,
            stats=stats,
        )
        decided += [(name, one) for one in find_surplus([copy], PLACES[name], PLACES, NOW, FIGURES)]
    for name, surplus in decided:
        change = ResignCopy(name, NOW, surplus.keep, lambda _: True, NOW - surplus.pause_ms)
        record = change.apply(record)
        assert change.done == (name not in record.copies)
    assert len(record.copies) >= min(len(used), policy.kept_copies)
    if all(surplus.kind is not SurplusKind.IDLE for _, surplus in decided):
        assert record.copies, "the last copy goes only by its time"
    if policy.max_copies:
        assert len(record.copies) <= policy.max_copies


# Moves


def moved(copies: list[CopyHere], here: InstanceView, places: Mapping[str, InstanceView]) -> list[str]:
    return [move.model_id for move in plan_moves(copies, here, places, NOW)]


def test_copies_go_from_a_full_instance_to_one_that_has_just_joined() -> None:
    here, places = view("b", used=950), {"a": view("a", used=900), "new": view("new", used=0)}
    copies = [copy_here(f"m{number}", last_used_ms=NOW - number * MINUTE) for number in range(10)]
    (one, other) = plan_moves(copies, here, places, NOW)
    assert (one.model_id, other.model_id) == ("m9", "m8"), "those that would be evicted next, within a bound"
    assert one.kind is MoveKind.MEMORY
    assert one.targets == {"new"}
    assert moved(copies, view("b", used=850), places) == [], "there is room"
    assert moved(copies, here, {"new": view("new", used=710)}) == [], "it is about as full"
    assert moved(copies, here, {"new": view("new", used=0, leaving=True)}) == []


def test_copies_go_from_a_busy_instance_to_an_idle_one() -> None:
    rates = {"m0": 4_000, "m1": 1_500, "m2": 400, "m3": 100}
    copies = [copy_here(name, demand=replace(CALM, rpm=rpm)) for name, rpm in rates.items()]
    here, places = view("b", rpm=6_000), {"a": view("a", rpm=2_000), "new": view("new", rpm=0)}
    moves = plan_moves(copies, here, places, NOW)
    assert [move.model_id for move in moves] == ["m1", "m2", "m3"], "not the one that would turn it round"
    assert {move.kind for move in moves} == {MoveKind.LOAD}
    assert moves[0].targets == {"new"}
    assert moved(copies, view("b", rpm=150), {"new": view("new")}) == [], "that is not busy"
    assert moved(copies, here, {"new": view("new", used=950)}) == [], "it has no room"


@pytest.mark.parametrize(
    "copy",
    [
        copy_here(since_ms=NOW - MINUTE),
        copy_here(last_used_ms=NOW - 2 * HOUR),
        copy_here(policy=CopyPolicy(max_copies=1)),
        copy_here(others={"new": OLD}),
    ],
)
def test_what_stays_where_it_is(copy: CopyHere) -> None:
    assert moved([copy], view("b", used=950), {"new": view("new", used=0)}) == []


@settings(deadline=None)
@given(
    rates=st.lists(st.integers(0, 5_000), min_size=1, max_size=20),
    sizes=st.lists(st.integers(1, 200), min_size=20, max_size=20),
    others=st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 20_000)), min_size=1, max_size=5),
)
def test_moving_never_turns_a_difference_round(
    rates: list[int], sizes: list[int], others: list[tuple[int, int]]
) -> None:
    copies = [
        copy_here(f"m{number}", units=sizes[number], demand=replace(CALM, rpm=rpm))
        for number, rpm in enumerate(rates)
    ]
    used = min(1_000, sum(copy.units for copy in copies))
    here = view("here", used=used, rpm=sum(rates))
    places = {f"o{n}": view(f"o{n}", used=units, rpm=rpm) for n, (units, rpm) in enumerate(others)}
    moves = plan_moves(copies, here, places, NOW)
    gone = [copies[int(move.model_id[1:])] for move in moves]
    assert len(moves) <= 4
    if moves and moves[0].kind is MoveKind.LOAD:
        rate = sum(copy.demand.rpm for copy in gone)
        least = min(places[name].requests_per_minute for name in moves[0].targets)
        assert here.requests_per_minute - rate >= least + rate
    elif moves:
        units = sum(copy.units for copy in gone)
        least = min(places[name].used_units for name in moves[0].targets)
        assert here.used_units - units >= least + units
