"""What is looked after beside requests: decided from facts alone."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from mesh.placement import (
    ClusterStats,
    CopyState,
    CopyView,
    InstanceView,
    RankedInstances,
    TypeConstraints,
)
from mesh.placement.upkeep import (
    Absences,
    Preload,
    Preloading,
    PreloadingFigures,
    Tidying,
    TidyingKind,
    deserves_second_home,
    tidy,
)

NOW = 1_800_000_000_000
MINUTE = 60_000
HOUR = 60 * MINUTE


@dataclass
class Record:
    copies: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    last_used: int = NOW


def _copy(state: CopyState = CopyState.LOADED, since_ms: int = NOW - HOUR, used_ms: int = NOW) -> CopyView:
    return CopyView("m", state, 10, used_ms, since_ms)


def _tidy(copy: CopyView | None, record: Record | None) -> list[Tidying]:
    return list(tidy("here", "m", copy, record, NOW))


# Copies and records


def test_what_agrees_is_left_alone() -> None:
    assert _tidy(_copy(), Record({"here": NOW - HOUR})) == []
    assert _tidy(None, Record({"there": NOW - HOUR}, {"there": NOW})) == []
    assert _tidy(None, None) == []


def test_a_copy_of_a_model_that_is_gone_goes() -> None:
    assert _tidy(_copy(), None) == [Tidying(TidyingKind.UNLOAD, "m")]
    assert _tidy(_copy(CopyState.UNLOADING), None) == []


def test_a_copy_that_serves_is_listed_with_the_time_of_its_load() -> None:
    assert _tidy(_copy(), Record({"there": 1})) == [Tidying(TidyingKind.ENTER, "m", NOW - HOUR)]
    assert _tidy(_copy(), Record({"here": NOW + HOUR})) == [
        Tidying(TidyingKind.CORRECT_START, "m", NOW - HOUR)
    ]


def test_a_copy_on_its_way_is_left_alone() -> None:
    for state in (CopyState.NEW, CopyState.QUEUED, CopyState.WAITING, CopyState.LOADING):
        assert _tidy(_copy(state), Record({"here": 1}, {"here": 1}, 0)) == []


def test_what_only_the_record_knows_is_taken_out_and_a_failure_once_it_is_old() -> None:
    assert _tidy(None, Record({"here": 1}, {"here": NOW - 14 * MINUTE})) == [
        Tidying(TidyingKind.TAKE_OUT, "m")
    ]
    assert _tidy(None, Record({}, {"here": NOW - 15 * MINUTE})) == [Tidying(TidyingKind.FORGET_FAILURE, "m")]
    assert _tidy(_copy(), Record({"here": NOW - HOUR}, {"here": NOW})) == [
        Tidying(TidyingKind.FORGET_FAILURE, "m")
    ]


def test_the_last_use_is_written_once_it_lags_and_never_as_one_to_come() -> None:
    listed = {"here": NOW - HOUR}
    assert _tidy(_copy(), Record(listed, last_used=NOW - 29 * MINUTE)) == []
    assert _tidy(_copy(used_ms=NOW + 20_000), Record(listed, last_used=NOW - 31 * MINUTE)) == [
        Tidying(TidyingKind.NOTE_USE, "m", NOW)
    ]


@given(
    st.one_of(st.none(), st.builds(_copy, st.sampled_from(CopyState), st.integers(NOW - HOUR, NOW))),
    st.one_of(
        st.none(),
        st.builds(
            Record,
            st.dictionaries(st.sampled_from(["here", "there"]), st.integers(0, NOW + HOUR)),
            st.dictionaries(st.sampled_from(["here", "there"]), st.integers(0, NOW)),
            st.integers(0, NOW),
        ),
    ),
)
def test_what_is_to_be_done_leaves_nothing_to_be_done(copy: CopyView | None, record: Record | None) -> None:
    for tidying in _tidy(copy, record):
        match tidying.kind:
            case TidyingKind.UNLOAD:
                copy = None
            case TidyingKind.ENTER | TidyingKind.CORRECT_START if record is not None:
                record.copies["here"] = tidying.time_ms
            case TidyingKind.TAKE_OUT if record is not None:
                del record.copies["here"]
            case TidyingKind.FORGET_FAILURE if record is not None:
                del record.failures["here"]
            case TidyingKind.NOTE_USE if record is not None:
                record.last_used = tidying.time_ms
    assert _tidy(copy, record) == []


# Instances that are gone


def test_an_instance_is_forgotten_ten_minutes_after_it_left() -> None:
    absences = Absences()
    absences.left("dead", NOW)
    named = {"dead": NOW - HOUR, "alive": NOW - HOUR}
    failed = {"dead": 1, "alive": 1}
    assert absences.dead(named, failed, {"alive": 1}, NOW + 9 * MINUTE, 10 * MINUTE) == []
    assert absences.dead(named, failed, {"alive": 1}, NOW + 10 * MINUTE, 10 * MINUTE) == ["dead"]


def test_an_instance_never_seen_is_forgotten_ten_minutes_after_it_was_missed() -> None:
    absences = Absences()
    assert absences.dead({}, {"dead": 1}, {}, NOW, 10 * MINUTE) == []
    assert absences.dead({}, {"dead": 1}, {}, NOW + 10 * MINUTE, 10 * MINUTE) == ["dead"]


def test_an_instance_that_came_back_and_a_load_that_began_since_are_not_forgotten() -> None:
    absences = Absences()
    absences.left("back", NOW)
    absences.came("back")
    absences.left("late", NOW)
    later = NOW + 11 * MINUTE
    assert absences.dead({"back": 1, "late": later - MINUTE}, {}, {}, later, 10 * MINUTE) == []
    absences.forget(["late"])
    assert len(absences) == 1


# Models loaded ahead of demand


def _instance(name: str, **values: int) -> InstanceView:
    told = {"capacity_units": 800, "used_units": 100, "oldest_used_ms": NOW - HOUR, "models": 10}
    return InstanceView(name, **(told | values))  # type: ignore[arg-type]


FIGURES = PreloadingFigures()


def _preloading(*instances: InstanceView, figures: PreloadingFigures = FIGURES) -> Preloading:
    ranked = RankedInstances(10, TypeConstraints(), instances)
    return Preloading(ranked.partitions(), ranked.constraints.rule_name, 10, NOW, figures)


def test_about_half_of_what_is_free_beyond_an_eighth_is_filled_with_the_models_used_last() -> None:
    preloading = _preloading(_instance("a"), _instance("b"))
    for number in range(1_000):
        preloading.offer(f"m{number:04}", "t", NOW - number, failures=0)
    # 700 of 800 are free, 600 beyond an eighth; models take 10 on average.
    assert preloading.chosen() == [Preload(f"m{n:04}", NOW - n, evicts=False) for n in range(60)]


def test_models_of_the_same_last_use_do_not_hide_each_other() -> None:
    preloading = _preloading(_instance("a"))
    for number in range(30):
        preloading.offer(f"m{number:02}", "t", NOW, failures=0)
    assert len(preloading.chosen()) == 30


def test_what_failed_twice_is_left_alone() -> None:
    preloading = _preloading(_instance("a"))
    preloading.offer("bad", "t", NOW, failures=2)
    preloading.offer("unlucky", "t", NOW, failures=1)
    assert [preload.model_id for preload in preloading.chosen()] == ["unlucky"]


def test_without_free_memory_only_models_used_well_after_the_oldest_copy_are_loaded() -> None:
    full = _instance("a", used_units=790, models=79, oldest_used_ms=NOW - 3 * HOUR)
    preloading = _preloading(full)
    for number in range(30):
        preloading.offer(f"new-{number:02}", "t", NOW - 119 * MINUTE - number, failures=0)
        preloading.offer(f"old-{number:02}", "t", NOW - 121 * MINUTE - number, failures=0)
    chosen = preloading.chosen()
    # A twentieth of 800, in models of 10.
    assert [preload.model_id for preload in chosen] == [f"new-{n:02}" for n in range(4)]
    assert all(preload.evicts for preload in chosen)


def test_an_instance_with_many_loads_under_way_is_left_alone() -> None:
    busy = _instance("a", loads_in_progress=51)
    figures = PreloadingFigures(most_share=0.0)
    assert not _preloading(busy, figures=figures).wanted
    assert _preloading(busy, _instance("b"), figures=figures).wanted


def test_known_sizes_are_gone_by() -> None:
    preloading = _preloading(_instance("a"))
    preloading.offer("huge", "t", NOW, failures=0, units=299)
    preloading.offer("next", "t", NOW - 1, failures=0, units=10)
    preloading.offer("tiny", "t", NOW - 2, failures=0, units=1)
    assert [preload.model_id for preload in preloading.chosen()] == ["huge", "tiny"]


def test_models_go_into_memory_that_their_type_can_use() -> None:
    constraints = TypeConstraints.parse('{"gpu": {"required": ["gpu"]}}')
    plain = InstanceView("a", 800, 0)
    special = InstanceView("b", 800, 800, models=80, labels=frozenset({"gpu"}))
    ranked = RankedInstances(10, constraints, (plain, special))
    preloading = Preloading(
        ranked.partitions(), constraints.rule_name, 10, NOW, PreloadingFigures(most_share=0)
    )
    preloading.offer("for-gpu", "gpu", NOW, failures=0)
    preloading.offer("for-any", "other", NOW, failures=0)
    assert [preload.model_id for preload in preloading.chosen()] == ["for-any"]


# Evicted copies


def test_an_evicted_copy_gets_another_home_where_there_is_room_and_it_was_no_passing_guest() -> None:
    roomy = ClusterStats(instances=2, capacity_units=100, free_units=5)
    assert deserves_second_home(180_001, 90_000, roomy)
    assert not deserves_second_home(180_000, 90_000, roomy)
    assert not deserves_second_home(
        180_001, 90_000, ClusterStats(instances=1, capacity_units=100, free_units=50)
    )
    assert not deserves_second_home(
        180_001, 90_000, ClusterStats(instances=9, capacity_units=100, free_units=4)
    )
