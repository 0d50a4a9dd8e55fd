"""The order kept as records change against one worked out anew, and the statistics of partitions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.placement import (
    NEVER_USED_MS,
    Exclusion,
    InstanceView,
    Pending,
    PlacementPolicy,
    PlacementRequest,
    RankedInstances,
    Reservations,
    TypeConstraints,
    choose,
    search,
)

NOW = 1_800_000_000_000
DEFAULT = 1_000
POLICY = PlacementPolicy()
RULES = TypeConstraints.parse(
    '{"big": {"required": ["gpu"], "preferred": ["fast"]}, "_default": {"preferred": ["cpu"]}}'
)

views_strategy = st.builds(
    InstanceView,
    st.sampled_from([f"i{number}" for number in range(12)]),
    capacity_units=st.sampled_from([20_000, 50_000, 100_000]),
    used_units=st.integers(0, 110_000),
    oldest_used_ms=st.one_of(st.integers(NOW - 10**6, NOW), st.just(NEVER_USED_MS)),
    models=st.integers(0, 30),
    loader_threads=st.integers(0, 2),
    loads_in_progress=st.integers(0, 12),
    requests_per_minute=st.sampled_from([0, 0, 150, 1_000]),
    shutting_down=st.sampled_from([False, False, False, True]),
    version=st.integers(0, 1),
    location=st.sampled_from(["", "h1", "h2", "h3"]),
    zone=st.sampled_from(["", "z1", "z2"]),
    labels=st.frozensets(st.sampled_from(["gpu", "fast", "cpu"]), max_size=2),
)


@dataclass
class Merits:
    """An instance's worth, worked out in the plainest way."""

    view: InstanceView
    free: int
    models: int
    loads: int
    full: bool
    rounds: int

    def order(self) -> tuple[object, ...]:
        view = self.view
        threads = max(1, view.loader_threads)
        oldest = view.oldest_used_ms
        merits = (oldest, self.models, -self.free) if self.full else (self.models, -self.free, oldest)
        idle = max(0, threads - self.loads)
        rest = (-idle, self.loads, -view.capacity_units, view.requests_per_minute, view.instance_id)
        return (self.full, self.rounds, -view.version, *merits, *rest)


def merits(view: InstanceView, pending: Pending, units: int) -> Merits:
    threads = max(1, view.loader_threads)
    free = max(0, view.capacity_units - view.used_units - pending.units)
    loads = view.loads_in_progress + pending.loads
    threshold = max(DEFAULT, min(DEFAULT * threads, view.capacity_units // 20))
    full = free < max(threshold, units)
    return Merits(view, free, view.models + pending.loads, loads, full, loads // (threads * 4))


def can_take(one: Merits, request: PlacementRequest, avoid: frozenset[str], *, choosy: bool) -> bool:
    view = one.view
    rule = RULES.rule(request.model_type)
    crowded = one.full and one.free < (request.units or DEFAULT)
    return not (
        request.excluded.get(view.instance_id, Exclusion.NOT_SERVED) is not Exclusion.NOT_SERVED
        or (choosy and view.instance_id in request.excluded)
        or (choosy and view.instance_id in avoid)
        or view.shutting_down
        or not rule.required <= view.labels
        or request.units > view.capacity_units
        or (crowded and (request.last_used_ms or NOW) <= view.oldest_used_ms)
    )


def about_as_old(one: Merits, best: Merits, gap_ms: int, share: float) -> bool:
    gap = one.view.oldest_used_ms - best.view.oldest_used_ms
    return gap <= gap_ms or gap <= share * (NOW - best.view.oldest_used_ms)


def shortlist(
    views: Sequence[InstanceView],
    reservations: Reservations,
    request: PlacementRequest,
    avoid: frozenset[str],
) -> list[str]:
    """The instances to draw from, by sorting all of them."""
    everyone = [merits(view, reservations.pending(view.instance_id), request.units) for view in views]
    pool: list[Merits] = []
    for full, choosy in ((False, True), (False, False), (True, True), (True, False)):
        possible = (
            one for one in everyone if one.full is full and can_take(one, request, avoid, choosy=choosy)
        )
        pool = pool or sorted(possible, key=Merits.order)
    if not pool:
        return []
    best = pool[0]

    def wish(wished: list[Merits]) -> bool:
        nonlocal pool
        near = [
            one
            for one in wished
            if not best.full or about_as_old(one, best, POLICY.wish_gap_ms, POLICY.wish_gap_share)
        ]
        if near:
            pool = wished
        return bool(near)

    labels = {view.labels for view in views}
    preferred = RULES.preferred_among(request.model_type, labels)
    if preferred:
        wish([one for one in pool if one.view.labels in preferred])
    holders = [
        view
        for view in views
        if request.excluded.get(view.instance_id) is Exclusion.HAS_COPY and not view.shutting_down
    ]
    zones = Counter(view.zone for view in holders)
    hosts = Counter(view.location for view in holders if view.location)
    for most in sorted({0, *zones.values()}) if zones else ():
        if wish([one for one in pool if zones[one.view.zone] <= most]):
            break
    for most in sorted({0, *hosts.values()}) if hosts else ():
        if wish([one for one in pool if hosts[one.view.location] <= most]):
            break
    best = pool[0]
    short = []
    for one in pool:
        if one.rounds > best.rounds or one.view.version < best.view.version:
            break
        if best.full:
            if not about_as_old(one, best, POLICY.lru_gap_ms, POLICY.lru_gap_share):
                break
        elif one.free < 0.25 * best.free or (one.models >= 10 and one.models > 1.25 * best.models):
            break
        short.append(one.view.instance_id)
    return short


@settings(deadline=None, max_examples=300)
@given(
    changes=st.lists(st.tuples(views_strategy, st.booleans()), max_size=25),
    placed=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 60_000)), max_size=8),
    exclusions=st.dictionaries(st.integers(0, 11), st.sampled_from(Exclusion), max_size=4),
    avoided=st.frozensets(st.integers(0, 11), max_size=3),
    model_type=st.sampled_from(["big", "other"]),
    units=st.sampled_from([0, 500, 8_000, 60_000]),
    used_ms=st.sampled_from([0, NOW, NOW - 500_000, NOW - 10**7, NOW + 20_000]),
    seed=st.integers(0, 1_000),
)
def test_the_kept_order_decides_as_one_worked_out_anew(
    changes: list[tuple[InstanceView, bool]],
    placed: list[tuple[int, int]],
    exclusions: dict[int, Exclusion],
    avoided: frozenset[int],
    model_type: str,
    units: int,
    used_ms: int,
    seed: int,
) -> None:
    ranked = RankedInstances(DEFAULT, RULES)
    current: dict[str, InstanceView] = {}
    for view, stays in changes:
        if stays:
            ranked.put(view)
            current[view.instance_id] = view
        else:
            ranked.remove(view.instance_id)
            current.pop(view.instance_id, None)
    reservations = Reservations()
    for number, (instance, size) in enumerate(placed):
        reservations.add(f"m{number}", f"i{instance}", size, NOW)
    excluded = {f"i{number}": why for number, why in exclusions.items()}
    avoid = frozenset(f"i{number}" for number in avoided)
    request = PlacementRequest("m", model_type, units, used_ms, excluded)
    placement = choose(ranked, request, NOW, Random(seed), reservations=reservations, avoid=avoid)
    expected = shortlist(list(current.values()), reservations, request, avoid)
    assert (placement.chosen in expected) if expected else placement.chosen is None
    fresh = RankedInstances(DEFAULT, RULES, current.values())
    again = choose(fresh, request, NOW, Random(seed), reservations=reservations, avoid=avoid)
    assert again.chosen == placement.chosen
    named = [candidate.instance_id for candidate in placement.candidates]
    assert sorted(named) == sorted(current)
    best_first = sorted((one for one in placement.candidates if one.rank), key=lambda one: one.rank)
    if expected:
        assert [one.instance_id for one in best_first][: len(expected)] == expected
    if len(expected) == 1:
        assert placement.chosen == expected[0]


@settings(deadline=None)
@given(views=st.lists(views_strategy, max_size=12, unique_by=lambda view: view.instance_id))
def test_partitions_and_what_a_type_sees_add_up(views: list[InstanceView]) -> None:
    ranked = RankedInstances(DEFAULT, RULES)
    for view in views:
        ranked.put(replace(view, models=view.models + 1))
        ranked.put(view)
    staying = [view for view in views if not view.shutting_down]
    partitions = ranked.partitions()
    assert sorted(view.instance_id for one in partitions for view in one.instances) == sorted(
        view.instance_id for view in staying
    )
    for partition in partitions:
        assert partition.prohibited in (frozenset(), frozenset({"big"}))
        assert partition.stats.instances == len(partition.instances)
    for model_type in ("big", "other"):
        eligible = [view for view in staying if RULES.rule(model_type).required <= view.labels]
        stats = ranked.stats(model_type)
        assert stats.instances == len(eligible)
        assert stats.capacity_units == sum(view.capacity_units for view in eligible)
        assert stats.free_units == sum(view.free_units for view in eligible)
        assert stats.models == sum(view.models for view in eligible)
        assert stats.oldest_used_ms == min((view.oldest_used_ms for view in eligible), default=NEVER_USED_MS)


def test_what_this_instance_knows_of_itself_counts_before_its_record() -> None:
    ranked = RankedInstances(
        DEFAULT, instances=[InstanceView(name, 100_000, 0, models=20) for name in ("self", "b")]
    )
    own = replace(ranked.views["self"], models=2_000)
    request = PlacementRequest("m", last_used_ms=NOW, balanced=True)
    assert choose(ranked, request, NOW, Random(1), self_id="self").chosen == "self"
    assert choose(ranked, request, NOW, Random(1), self_id="self", own=own).chosen == "b"


@pytest.mark.parametrize("instances", [1_000, 5_000])
def test_a_choice_looks_at_few_of_many_instances(instances: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(7)
    ranked = RankedInstances(
        DEFAULT,
        instances=[
            InstanceView(
                f"i{number}", 100_000, random.randrange(90_000), NOW - 10**6, random.randrange(1_000)
            )
            for number in range(instances)
        ],
    )
    looked_at = 0
    refusal = search.Search.refusal

    def counting(self: search.Search, standing: object) -> object:
        nonlocal looked_at
        looked_at += 1
        return refusal(self, standing)  # type: ignore[arg-type]

    monkeypatch.setattr(search.Search, "refusal", counting)
    placement = choose(ranked, PlacementRequest("m", last_used_ms=NOW), NOW, random)
    assert placement.chosen is not None
    assert looked_at <= 2 * POLICY.shortlist
