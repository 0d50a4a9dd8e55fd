"""One instance's cache, told as what happens to its models."""

import pytest

from mesh.placement import (
    UNIT_BYTES,
    CacheLimits,
    CancelLoad,
    CloseCopy,
    Deregister,
    EvictionPolicy,
    EvictionReason,
    Failure,
    ForgetFailure,
    KnownSize,
    LoadFailed,
    LoadFinished,
    LoadRequested,
    LoadTimedOut,
    MeasureSize,
    PredictSize,
    Refusal,
    Register,
    Registered,
    RegistrationRefused,
    RemovalReason,
    RemoveRequested,
    ReportCapacityLost,
    ReportEvicted,
    ReportFailed,
    ReportLoaded,
    ReportRefused,
    ReportSize,
    RuntimeLost,
    RuntimeRestarted,
    ShutdownStarted,
    SizeDeclared,
    SizeMeasured,
    SizePredicted,
    SizeSource,
    StartLoad,
    StartUnload,
    Tick,
    UnloadFailed,
    UnloadFinished,
    Used,
    WakeAt,
)
from tests.placement.shell import START_MS, Shell, limits

HOUR_MS = 3_600_000


def test_limits_are_those_of_modelmesh() -> None:
    # 1 GiB, models of 50 MiB, two loaders: as observed on KServe ModelMesh.
    found = CacheLimits.from_runtime(
        capacity_bytes=1 << 30,
        default_model_size_bytes=50 << 20,
        max_loading_concurrency=2,
        loading_timeout_ms=90_000,
    )
    assert found.unload_buffer == 6_400
    assert found.capacity - found.unload_buffer == 124_672
    assert found.full_threshold == max(6_400, min(12_800, 131_072 // 20))
    assert found.min_churn_age_ms == 300_000


def test_limits_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="default_model is 0, must be at least 1"):
        limits(default_model=0)


def test_a_load_registers_and_predicts_at_the_same_time_and_starts_when_both_are_back() -> None:
    shell = Shell()
    shell.send(LoadRequested("a", urgent=True))
    (register,) = shell.seen(Register)
    assert shell.take(PredictSize) == [PredictSize("a", register.load_id)]
    shell.send(SizePredicted("a", register.load_id, 20))
    assert shell.take(StartLoad) == []
    shell.send(Registered("a", register.load_id), after_ms=5)
    (start,) = shell.take(StartLoad)
    assert (start.model_id, start.units, start.timeout_ms) == ("a", 20, 90_000)
    shell.send(LoadFinished("a", start.load_id, 25))
    assert shell.take(ReportLoaded) == [ReportLoaded("a", 25, fresh=True)]
    assert (shell.cache.used_units, shell.cache.resident_units) == (25, 25)


def test_a_known_size_needs_no_prediction() -> None:
    shell = Shell()
    shell.send(LoadRequested("a", urgent=True, size=KnownSize(learned=20)))
    assert shell.seen(PredictSize) == []
    (register,) = shell.take(Register)
    shell.send(Registered("a", register.load_id))
    assert shell.take(StartLoad)[0].units == 20


def test_what_a_runtime_told_is_known_for_the_next_load_and_reported_beside_what_was_expected() -> None:
    shell = Shell()
    shell.request("a", 10)
    shell.send(LoadFinished("a", shell.take(StartLoad)[0].load_id, 25))
    assert shell.take(ReportSize) == [ReportSize("a", 10, 25, SizeSource.PREDICTED)]
    shell.send(RemoveRequested("a", RemovalReason.SCALE_DOWN))
    shell.send(UnloadFinished("a"))
    shell.send(LoadRequested("a", size=KnownSize(learned=12)))
    assert shell.seen(PredictSize) == []
    shell.send(Registered("a", shell.take(Register)[0].load_id))
    assert shell.take(StartLoad)[0].units == 25


@pytest.mark.parametrize("told", [0, 5, 60, 95])
def test_a_declared_size_is_counted_whatever_the_runtime_tells(told: int) -> None:
    shell = Shell()
    shell.load("other", 50)
    shell.send(LoadRequested("a", size=KnownSize(declared=30, learned=70)))
    shell.send(Registered("a", shell.take(Register)[0].load_id))
    (start,) = shell.take(StartLoad)
    assert start.units == 30
    shell.send(LoadFinished("a", start.load_id, told))
    if told:
        assert shell.seen(ReportSize) == [ReportSize("a", 30, told, SizeSource.DECLARED)]
    assert shell.take(ReportLoaded) == [ReportLoaded("a", 30, fresh=True)]
    assert (shell.cache.used_units, shell.cache.resident_units) == (80, 80)


def test_a_size_declared_or_taken_back_counts_at_once() -> None:
    shell = Shell()
    shell.load("old", 20)
    shell.now += 1
    shell.load("a", 20)
    shell.send(SizeDeclared("a", 80))
    assert [evicted.model_id for evicted in shell.take(ReportEvicted)] == ["old"]
    shell.send(UnloadFinished("old"))
    assert (shell.cache.used_units, shell.cache.resident_units) == (80, 80)
    shell.send(SizeDeclared("a", 0))
    assert (shell.cache.used_units, shell.cache.resident_units) == (20, 20)
    shell.send(SizeDeclared("nowhere", 5))
    shell.send(SizeDeclared("a", 91))
    assert shell.state("a") == "unloading"


def test_a_size_declared_while_the_model_waits_for_its_prediction_is_what_it_is_admitted_with() -> None:
    shell = Shell()
    shell.request("a")
    assert len(shell.seen(PredictSize)) == 1
    shell.send(SizeDeclared("a", 30))
    assert shell.take(StartLoad)[0].units == 30
    assert (shell.cache.used_units, shell.cache.pending_units) == (30, 0)


def test_a_runtime_that_cannot_predict_gets_the_default_size() -> None:
    shell = Shell()
    shell.request("a")
    (register,) = shell.take(Register)
    shell.send(SizePredicted("a", register.load_id, None))
    assert shell.take(StartLoad)[0].units == 10


def test_a_size_that_is_not_told_is_measured_while_the_copy_serves() -> None:
    shell = Shell()
    shell.request("a", 20)
    (start,) = shell.take(StartLoad)
    shell.send(LoadFinished("a", start.load_id, 0))
    assert shell.seen(ReportLoaded) == [ReportLoaded("a", 20, fresh=True)]
    assert shell.take(MeasureSize) == [MeasureSize("a", start.load_id)]
    assert shell.state("a") == "sizing"
    shell.send(SizeMeasured("a", start.load_id, 33))
    assert shell.state("a") == "loaded"
    assert shell.cache.used_units == 33


def test_requests_for_one_model_share_its_load() -> None:
    shell = Shell()
    shell.request("a", 20)
    for _ in range(3):
        shell.send(LoadRequested("a", urgent=True))
    assert len(shell.seen(Register)) == 1
    (start,) = shell.take(StartLoad)
    shell.send(LoadFinished("a", start.load_id, 20))
    assert len(shell.take(ReportLoaded)) == 1
    shell.send(LoadRequested("a", urgent=True))
    assert shell.take(ReportLoaded) == [ReportLoaded("a", 20, fresh=False)]


def test_another_instance_was_first() -> None:
    shell = Shell()
    shell.send(LoadRequested("a", urgent=True))
    (register,) = shell.take(Register)
    shell.send(RegistrationRefused("a", register.load_id, "loaded elsewhere"))
    (refused,) = shell.seen(ReportRefused)
    assert (refused.reason, refused.message) == (Refusal.NOT_REGISTERED, "loaded elsewhere")
    assert shell.take(Deregister) == []
    assert shell.state("a") == "absent"
    assert shell.cache.pending_units == 0


def test_the_least_recently_used_copies_go_and_only_as_many_as_needed() -> None:
    shell = Shell()
    for number, units in enumerate((5, 30, 20, 35)):
        shell.load(f"m{number}", units)
        shell.now += 1_000
    shell.request("new", 30)
    # The oldest, of 5 units, stays: without it there is room enough.
    (evicted,) = shell.seen(ReportEvicted)
    assert (evicted.model_id, evicted.for_model, evicted.reason) == ("m1", "new", EvictionReason.ROOM)
    assert evicted.age_ms == 3_000
    assert evicted.units == 30
    assert [close.for_model for close in shell.seen(CloseCopy)] == ["new"]
    assert shell.cache.used_units == 90


def test_a_load_waits_until_the_evicted_model_is_unloaded() -> None:
    shell = Shell()
    shell.load("a", 45)
    shell.now += 1
    shell.load("b", 45)
    shell.request("c", 40)
    (unload,) = shell.seen(StartUnload)
    assert unload.model_id == "a"
    assert shell.take(StartLoad) == []
    assert shell.state("c") == "waiting"
    assert shell.cache.unloading_units == 45
    shell.send(UnloadFinished("a"))
    assert shell.take(StartLoad)[0].model_id == "c"
    assert shell.cache.unloading_units == 0


def test_the_unload_buffer_lends_memory_to_a_load_that_fits_into_it() -> None:
    shell = Shell()
    shell.load("a", 10)
    shell.now += 1
    shell.load("b", 80)
    shell.request("c", 10)
    assert shell.seen(StartUnload)[0].model_id == "a"
    assert shell.take(StartLoad)[0].model_id == "c"


def test_a_load_that_gets_no_memory_in_time_says_so() -> None:
    shell = Shell()
    shell.load("a", 90)
    shell.request("b", 80)
    shell.asked.clear()
    shell.send(Tick(), after_ms=180_000)
    (refused,) = shell.seen(ReportRefused)
    assert refused.reason is Refusal.SPACE_TIMEOUT
    assert "got no memory within 180 s" in refused.message
    assert "720.0 KiB still being unloaded" in refused.message
    assert [deregister.model_id for deregister in shell.take(Deregister)] == ["b"]
    assert shell.state("b") == "absent"


def test_the_shell_is_told_when_to_wake() -> None:
    shell = Shell()
    shell.load("a", 90)
    shell.request("b", 80)
    assert shell.seen(WakeAt) == [WakeAt(shell.now + 180_000)]


def test_a_busy_copy_is_spared_and_the_next_one_goes() -> None:
    shell = Shell()
    shell.load("a", 45)
    shell.load("b", 45)
    shell.now += 1
    shell.in_flight["a"] = 3
    shell.request("c", 40)
    assert [evicted.model_id for evicted in shell.seen(ReportEvicted)] == ["b"]
    assert shell.state("a") == "loaded"


def test_a_load_waits_for_a_moment_in_which_a_busy_copy_is_idle() -> None:
    shell = Shell()
    shell.load("a", 90)
    shell.in_flight["a"] = 1
    shell.now += 1
    shell.request("b", 40)
    assert shell.state("b") == "new"
    assert shell.take(ReportRefused) == []
    shell.send(Tick(), after_ms=100)
    assert shell.state("a") == "loaded"
    shell.in_flight["a"] = 0
    shell.send(Tick(), after_ms=100)
    assert [evicted.model_id for evicted in shell.seen(ReportEvicted)] == ["a"]
    shell.send(UnloadFinished("a"))
    assert shell.state("b") == "loading"


def test_a_load_does_not_wait_for_a_busy_copy_without_end() -> None:
    shell = Shell()
    shell.load("a", 90)
    shell.in_flight["a"] = 1
    shell.now += 1
    shell.request("b", 40)
    for _ in range(1_900):
        shell.send(Tick(), after_ms=100)
    (refused,) = shell.take(ReportRefused)
    assert refused.reason is Refusal.SPACE_TIMEOUT
    assert shell.state("a") == "loaded"


def test_copies_in_use_a_moment_ago_are_not_churned() -> None:
    shell = Shell(limits(min_churn_age_ms=300_000))
    shell.load("a", 90)
    shell.now += 10_000
    shell.send(LoadRequested("b", urgent=True))
    # Refused before anything was written to the registry.
    assert shell.seen(Register) == []
    (refused,) = shell.take(ReportRefused)
    assert refused.reason is Refusal.CHURN
    assert refused.message.startswith(
        "Cache churn threshold exceeded: Model b needs 80.0 KiB, 0.0 KiB of 720.0"
    )
    assert "used 10.0 s ago, less than 300 s" in refused.message
    assert refused.retry_elsewhere
    shell.now += 290_001
    shell.request("b", 40)
    assert [evicted.model_id for evicted in shell.seen(ReportEvicted)] == ["a"]


def test_a_model_older_than_everything_in_a_full_cache_is_not_loaded() -> None:
    shell = Shell()
    shell.load("a", 90)
    shell.request("b", 40, last_used_ms=START_MS - HOUR_MS, urgent=False)
    assert shell.take(ReportRefused)[0].reason is Refusal.OLDER_THAN_ALL


def test_a_use_keeps_a_copy() -> None:
    shell = Shell()
    shell.load("a", 45)
    shell.now += 1
    shell.load("b", 45)
    shell.send(Used("a", shell.now + 1), after_ms=1)
    shell.request("c", 40)
    assert [evicted.model_id for evicted in shell.seen(ReportEvicted)] == ["b"]
    assert shell.cache.oldest_used_ms == shell.now


def test_an_older_use_does_not_turn_the_clock_back() -> None:
    shell = Shell()
    shell.load("a", 45)
    shell.send(Used("a", START_MS - HOUR_MS))
    copy = shell.cache.copy("a")
    assert copy is not None
    assert copy.last_used_ms == START_MS


def test_a_copy_just_loaded_is_there_for_those_who_waited() -> None:
    shell = Shell(limits(just_loaded_ms=5_000))
    shell.load("a", 90, last_used_ms=START_MS - HOUR_MS)
    shell.request("b", 40)
    assert shell.state("a") == "loaded"
    shell.send(Tick(), after_ms=5_000)
    assert [evicted.model_id for evicted in shell.seen(ReportEvicted)] == ["a"]


def test_a_new_copy_that_has_served_may_go() -> None:
    shell = Shell(limits(just_loaded_ms=5_000))
    for model_id in ("a", "b", "c"):
        shell.load(model_id, 30)
    shell.request("d", 30)
    assert shell.seen(CloseCopy) == []
    shell.send(Used("b", shell.now, in_flight=0))
    assert [close.model_id for close in shell.seen(CloseCopy)] == ["b"]


def test_a_model_larger_than_the_capacity_is_refused_with_both_numbers() -> None:
    shell = Shell()
    shell.load("a", 50)
    shell.request("b", 91)
    (failed,) = shell.take(ReportFailed)
    assert failed.reason is Failure.LARGER_THAN_CAPACITY
    assert failed.message == (
        "Size of model b, 91 units (728.0 KiB), is larger than total effective capacity, 90 units (720.0 KiB)"
    )
    assert shell.state("a") == "loaded"


def test_a_size_known_to_be_too_large_does_not_reach_the_registry() -> None:
    shell = Shell()
    shell.send(LoadRequested("b", urgent=True, size=KnownSize(learned=91)))
    assert shell.seen(Register) == []
    assert shell.take(ReportFailed)[0].reason is Failure.LARGER_THAN_CAPACITY


def test_a_model_larger_than_predicted_evicts_others_and_blocks_loads_until_that_is_made_up_for() -> None:
    shell = Shell()
    shell.load("a", 40)
    shell.now += 1
    shell.request("liar", 40)
    (start,) = shell.take(StartLoad)
    shell.send(LoadFinished("liar", start.load_id, 70), after_ms=1)
    assert shell.seen(ReportLoaded)[0].units == 70
    (evicted,) = shell.seen(ReportEvicted)
    assert (evicted.model_id, evicted.for_model, evicted.reason) == ("a", "liar", EvictionReason.OVERSIZED)
    assert shell.cache.deficit_units == 10
    shell.asked.clear()
    shell.request("b", 20)
    assert shell.take(StartLoad) == []
    shell.send(UnloadFinished("a"))
    assert shell.cache.deficit_units == 0
    assert shell.take(StartLoad)[0].model_id == "b"


def test_a_model_that_turns_out_larger_than_the_capacity_is_not_kept_nor_tried_again() -> None:
    shell = Shell()
    shell.request("liar", 40)
    (start,) = shell.take(StartLoad)
    shell.send(LoadFinished("liar", start.load_id, 0))
    shell.send(SizeMeasured("liar", start.load_id, 95))
    assert [unload.model_id for unload in shell.take(StartUnload)] == ["liar"]
    assert shell.state("liar") == "unloading"
    shell.send(UnloadFinished("liar"))
    shell.send(LoadRequested("liar", urgent=True))
    assert shell.take(ReportFailed)[0].reason is Failure.LARGER_THAN_CAPACITY


def test_a_failure_is_told_again_until_it_is_forgotten() -> None:
    shell = Shell()
    shell.request("a", 20)
    (start,) = shell.take(StartLoad)
    shell.send(LoadFailed("a", start.load_id, 13, "broken file"))
    failed = ReportFailed("a", Failure.RUNTIME, 13, "broken file", retry_elsewhere=True, fresh=True)
    assert shell.seen(ReportFailed) == [failed]
    assert shell.take(StartUnload) == [StartUnload("a", shell.now + 1_000)]
    assert shell.cache.used_units == 1
    assert shell.cache.unloading_units == 20
    shell.send(LoadRequested("a", urgent=True))
    (again,) = shell.take(ReportFailed)
    assert again.message == "broken file"
    assert not again.fresh
    shell.send(Tick(), after_ms=450_000)
    assert shell.take(ForgetFailure) == []
    shell.send(Tick(), after_ms=450_000)
    assert shell.take(ForgetFailure) == [ForgetFailure("a")]


def test_a_failure_of_a_model_in_use_is_forgotten_after_half_the_time() -> None:
    shell = Shell()
    shell.request("a", 20)
    (start,) = shell.take(StartLoad)
    shell.send(LoadFailed("a", start.load_id, 13, "broken file", load_started=False))
    assert shell.cache.unloading_units == 0
    shell.send(Used("a", shell.now + 400_000), after_ms=400_000)
    shell.send(Tick(), after_ms=50_000)
    assert shell.take(ForgetFailure) == [ForgetFailure("a")]


def test_a_failure_whose_reminder_made_room_is_forgotten_all_the_same() -> None:
    shell = Shell()
    shell.request("a", 20)
    (start,) = shell.take(StartLoad)
    shell.send(LoadFailed("a", start.load_id, 13, "broken file", load_started=False))
    shell.send(Tick(), after_ms=1_000)
    shell.load("large", 90)
    assert "a" not in shell.cache
    shell.send(Tick(), after_ms=449_000)
    assert shell.take(ForgetFailure) == [ForgetFailure("a")]


def test_a_failure_for_whose_reminder_there_is_no_room_is_forgotten_in_time() -> None:
    shell = Shell()
    shell.load("resident", 90)
    shell.send(LoadRequested("a", size=KnownSize(learned=91)))
    (failed,) = shell.take(ReportFailed)
    assert failed.reason is Failure.LARGER_THAN_CAPACITY
    assert "a" not in shell.cache
    shell.send(Tick(), after_ms=450_000)
    assert shell.take(ForgetFailure) == [ForgetFailure("a")]


def test_a_failure_that_may_pass_is_soon_forgotten() -> None:
    shell = Shell()
    shell.request("a", 20)
    (start,) = shell.take(StartLoad)
    shell.send(LoadFailed("a", start.load_id, 14, "storage is away", load_started=False))
    shell.send(Tick(), after_ms=10_000)
    assert [forgotten.model_id for forgotten in shell.take(ForgetFailure)] == ["a"]
    assert shell.state("a") == "absent"


def test_a_load_that_takes_too_long_is_unloaded_a_little_later() -> None:
    shell = Shell()
    shell.request("a", 20)
    (start,) = shell.take(StartLoad)
    shell.send(LoadTimedOut("a", start.load_id), after_ms=90_000)
    (failed,) = shell.seen(ReportFailed)
    assert (failed.reason, failed.code) == (Failure.TIMEOUT, 4)
    assert failed.message == "Loading model a took longer than 90 s"
    assert shell.take(StartUnload) == [StartUnload("a", shell.now + 3_000)]


def test_requests_that_wait_go_before_preemptive_loads_and_in_their_order() -> None:
    shell = Shell(limits(loader_threads=1))
    shell.request("running", 5)
    for number, age_ms in enumerate((3_000, 1_000, 2_000)):
        shell.request(f"preemptive{number}", 5, START_MS - age_ms, urgent=False)
    shell.request("first", 5)
    shell.request("second", 5)
    shell.send(LoadRequested("preemptive0", urgent=True), after_ms=1)
    order = []
    while starts := shell.take(StartLoad):
        (start,) = starts
        order.append(start.model_id)
        shell.send(LoadFinished(start.model_id, start.load_id, 5))
    assert set(order[1:4]) == {"first", "second", "preemptive0"}
    assert order.index("first") < order.index("second")
    assert order[4:] == ["preemptive1", "preemptive2"]


def test_a_preemptive_load_that_has_not_begun_gives_way_to_a_request() -> None:
    shell = Shell(limits(loader_threads=1))
    shell.request("running", 45)
    shell.request("preemptive", 45, START_MS - 1_000, urgent=False)
    shell.request("wanted", 40)
    assert [refused.reason for refused in shell.seen(ReportRefused)] == [Refusal.DISPLACED]
    assert shell.state("wanted") == "queued"


def test_at_most_as_many_loads_run_as_there_are_loaders() -> None:
    shell = Shell()
    for number in range(5):
        shell.request(f"m{number}", 10)
    assert len(shell.seen(StartLoad)) == 2
    assert shell.cache.loads_in_progress == 5


def test_a_load_removed_on_its_way_is_cancelled_and_then_unloaded() -> None:
    shell = Shell()
    shell.request("a", 20)
    (start,) = shell.take(StartLoad)
    shell.send(RemoveRequested("a", RemovalReason.UNREGISTERED))
    assert shell.seen(CancelLoad) == [CancelLoad("a", start.load_id)]
    assert shell.seen(StartUnload) == [StartUnload("a", shell.now + 3_000)]
    (refused,) = shell.take(ReportRefused)
    assert refused.reason is Refusal.REMOVED
    assert not refused.retry_elsewhere
    # What the cancelled call has to say comes too late.
    shell.send(LoadFinished("a", start.load_id, 20))
    assert shell.take(ReportLoaded) == []


def test_a_removed_copy_serves_its_requests_to_the_end() -> None:
    shell = Shell()
    shell.load("a", 20)
    shell.in_flight["a"] = 2
    shell.send(RemoveRequested("a", RemovalReason.SCALE_DOWN))
    assert shell.seen(CloseCopy) == [CloseCopy("a", "", drain=True)]
    assert shell.take(StartUnload) == []
    assert shell.state("a") == "unloading"
    shell.in_flight["a"] = 0
    shell.send(Tick(), after_ms=200)
    assert shell.take(StartUnload) == [StartUnload("a", shell.now)]


def test_requests_that_never_end_do_not_keep_a_removed_copy_for_ever() -> None:
    shell = Shell()
    shell.load("a", 20)
    shell.in_flight["a"] = 1
    shell.send(RemoveRequested("a", RemovalReason.SCALE_DOWN))
    shell.send(Tick(), after_ms=60_000)
    assert shell.take(StartUnload) == []
    for _ in range(10):
        shell.send(Tick(), after_ms=64_000)
    assert [unload.model_id for unload in shell.take(StartUnload)] == ["a"]


def test_a_load_waits_for_the_unload_of_the_same_model() -> None:
    shell = Shell()
    shell.load("a", 20)
    shell.send(RemoveRequested("a", RemovalReason.SCALE_DOWN))
    shell.asked.clear()
    shell.request("a", 20)
    assert shell.take(StartLoad) == []
    shell.send(UnloadFinished("a"))
    assert shell.take(StartLoad)[0].model_id == "a"


def test_an_unload_that_fails_is_retried_and_then_costs_capacity() -> None:
    shell = Shell()
    shell.load("a", 20)
    shell.send(RemoveRequested("a", RemovalReason.SCALE_DOWN))
    shell.asked.clear()
    for _ in range(89):
        shell.send(UnloadFailed("a", "busy"), after_ms=10_000)
        assert shell.take(StartUnload) == [StartUnload("a", shell.now + 10_000)]
    shell.send(UnloadFailed("a", "busy"))
    assert shell.take(ReportCapacityLost) == [ReportCapacityLost("a", 20, 90, "busy")]
    assert (shell.cache.capacity_units, shell.cache.lost_units) == (70, 20)
    assert shell.cache.unloading_units == 0
    shell.send(LoadRequested("a", urgent=True))
    (refused,) = shell.take(ReportRefused)
    assert refused.reason is Refusal.STUCK_UNLOAD
    assert refused.message == "Prior unload of model a failed unrecoverably"
    shell.send(RuntimeRestarted())
    assert shell.cache.capacity_units == 90


def test_lost_capacity_is_made_up_for_by_evictions() -> None:
    shell = Shell()
    shell.load("a", 20)
    shell.send(RemoveRequested("a", RemovalReason.SCALE_DOWN))
    shell.asked.clear()
    shell.load("b", 40)
    shell.now += 1
    shell.load("c", 40)
    for _ in range(90):
        shell.send(UnloadFailed("a"), after_ms=10_000)
    (evicted,) = shell.take(ReportEvicted)
    assert (evicted.model_id, evicted.reason) == ("b", EvictionReason.CAPACITY_LOST)
    assert shell.cache.used_units <= shell.cache.capacity_units


def test_a_copy_that_the_runtime_lost_is_dropped_without_unload() -> None:
    shell = Shell()
    shell.load("a", 20)
    shell.send(RuntimeLost("a"))
    assert shell.seen(StartUnload) == []
    assert shell.take(Deregister) == [Deregister("a", "the runtime lost it", START_MS)]
    assert (shell.cache.used_units, shell.cache.resident_units) == (0, 0)


def test_an_answer_to_a_request_sent_before_the_copy_was_loaded_says_nothing_of_it() -> None:
    shell = Shell()
    shell.load("a", 20)
    shell.send(RuntimeLost("a", asked_ms=START_MS - 1))
    assert shell.state("a") == "loaded"
    shell.send(RuntimeLost("a", asked_ms=START_MS))
    assert shell.state("a") == "absent"


def test_a_restarted_runtime_holds_nothing() -> None:
    shell = Shell()
    shell.load("a", 20)
    shell.load("b", 20)
    shell.send(RemoveRequested("b", RemovalReason.SCALE_DOWN))
    shell.asked.clear()
    shell.send(RuntimeRestarted())
    assert [deregister.model_id for deregister in shell.take(Deregister)] == ["a"]
    assert (shell.cache.used_units, shell.cache.resident_units, shell.cache.unloading_units) == (0, 0, 0)
    assert len(shell.cache) == 0


def test_shutdown_refuses_what_has_not_reached_the_runtime_and_keeps_the_rest() -> None:
    shell = Shell(limits(loader_threads=1))
    shell.load("loaded", 10)
    shell.request("loading", 10)
    shell.request("queued", 10)
    shell.send(ShutdownStarted())
    assert [refused.model_id for refused in shell.take(ReportRefused)] == ["queued"]
    shell.send(LoadRequested("late", urgent=True))
    assert shell.take(ReportRefused)[0].reason is Refusal.SHUTTING_DOWN
    assert (shell.state("loaded"), shell.state("loading")) == ("loaded", "loading")


def test_evictions_for_one_model_are_bounded_by_taking_larger_victims() -> None:
    shell = Shell(policy=EvictionPolicy(max_victims=3))
    for number in range(10):
        shell.load(f"small{number}", 3)
        shell.now += 1
    shell.load("large", 60)
    shell.now += 1
    shell.request("new", 50)
    assert [evicted.model_id for evicted in shell.seen(ReportEvicted)] == ["large"]


def test_pending_loads_are_told_before_their_size_is_known() -> None:
    shell = Shell()
    shell.send(LoadRequested("a", urgent=True))
    assert (shell.cache.used_units, shell.cache.pending_units) == (0, 10)
    (register,) = shell.take(Register)
    shell.send(Registered("a", register.load_id))
    shell.send(SizePredicted("a", register.load_id, 30))
    assert (shell.cache.used_units, shell.cache.pending_units) == (30, 0)


def test_a_clock_that_steps_back_does_no_harm() -> None:
    shell = Shell()
    shell.load("a", 90)
    shell.now -= HOUR_MS
    shell.request("b", 40)
    assert [evicted.age_ms for evicted in shell.seen(ReportEvicted)] == [0]


def test_why_a_copy_is_here_is_kept() -> None:
    shell = Shell()
    shell.send(LoadRequested("a", urgent=True, why="asked for by pod-1"))
    (copy,) = shell.cache.copies()
    assert (copy.why, copy.units, copy.since_ms) == ("asked for by pod-1", 10, START_MS)
    assert 10 * UNIT_BYTES == 81_920


def test_free_room_counts_when_a_load_is_looked_at_before_it_is_registered() -> None:
    shell = Shell(limits(min_churn_age_ms=300_000, default_model=20))
    shell.load("old", 15)
    shell.now += 300_001
    shell.load("young", 60)
    # 15 units are free and 15 more can be had: room for one of 20.
    shell.request("new", 20)
    assert [evicted.model_id for evicted in shell.seen(ReportEvicted)] == ["old"]


def test_a_load_that_waits_for_memory_keeps_its_loader() -> None:
    shell = Shell(limits(loader_threads=1))
    shell.load("a", 90)
    shell.request("waits", 60)
    shell.request("small", 5)
    assert (shell.state("waits"), shell.state("small")) == ("waiting", "queued")


def test_a_measured_size_that_is_smaller_makes_room() -> None:
    shell = Shell()
    shell.request("a", 90)
    (start,) = shell.take(StartLoad)
    shell.in_flight["a"] = 1
    shell.send(LoadFinished("a", start.load_id, 0))
    shell.request("b", 50)
    assert shell.state("b") == "new"
    shell.send(SizeMeasured("a", start.load_id, 30))
    assert shell.state("b") == "loading"


def test_a_request_waits_its_turn_while_everything_is_on_its_way() -> None:
    shell = Shell(limits(just_loaded_ms=5_000))
    shell.request("a", 50)
    shell.request("b", 40)
    starts = {start.model_id: start for start in shell.take(StartLoad)}
    shell.request("c", 30)
    assert shell.state("c") == "new"
    shell.send(LoadFinished("a", starts["a"].load_id, 50), after_ms=10)
    assert shell.state("c") == "new"
    shell.send(Used("a", shell.now, in_flight=0), after_ms=1)
    assert [evicted.model_id for evicted in shell.seen(ReportEvicted)] == ["a"]
    assert shell.state("c") in {"queued", "waiting", "loading"}


def test_a_failure_that_is_half_expired_is_tried_again_on_demand() -> None:
    shell = Shell()
    shell.request("a", 20)
    (start,) = shell.take(StartLoad)
    shell.send(LoadFailed("a", start.load_id, 13, "broken file", load_started=False))
    shell.send(Tick(), after_ms=450_000)
    shell.take(ForgetFailure)
    shell.send(LoadRequested("a", urgent=True), after_ms=1)
    assert [type(instruction) for instruction in shell.asked][:2] == [ForgetFailure, Register]


def test_an_answer_about_a_load_that_was_given_up_is_not_taken_for_its_successor() -> None:
    shell = Shell()
    shell.send(LoadRequested("a", urgent=True))
    (first,) = shell.take(Register)
    shell.send(RemoveRequested("a", RemovalReason.RECONCILED))
    shell.send(LoadRequested("a", urgent=True))
    shell.take(Register)
    shell.send(SizePredicted("a", first.load_id, 20))
    shell.send(Registered("a", first.load_id))
    assert shell.take(StartLoad) == []
    assert shell.state("a") == "new"


def test_many_loads_that_cannot_get_room_do_not_keep_others_from_it() -> None:
    shell = Shell()
    shell.load("busy", 60)
    shell.in_flight["busy"] = 1
    shell.now += 1
    shell.request("large", 80)
    assert shell.state("large") == "new"
    shell.request("small", 20)
    assert shell.state("small") == "loading"


def test_however_many_loads_wait_for_busy_copies_none_waits_without_end() -> None:
    shell = Shell()
    shell.load("busy", 90)
    shell.in_flight["busy"] = 1
    for number in range(50):
        shell.now += 1
        shell.request(f"m{number}", 40)
    assert shell.take(ReportRefused) == []
    for _ in range(2_000):
        shell.send(Tick(), after_ms=100)
    refused = shell.take(ReportRefused)
    assert len(refused) == 50
    # Room for two of them could have come of it; the others were not kept waiting for nothing.
    assert [one.reason for one in refused].count(Refusal.SPACE_TIMEOUT) == 2
    assert {one.reason for one in refused} == {Refusal.SPACE_TIMEOUT, Refusal.NO_ROOM}
    assert shell.cache.loads_in_progress == 0


def test_a_load_that_waited_for_an_unload_that_is_given_up_is_refused() -> None:
    shell = Shell()
    shell.load("a", 20)
    shell.send(RemoveRequested("a", RemovalReason.SCALE_DOWN))
    shell.asked.clear()
    for _ in range(89):
        shell.send(UnloadFailed("a", "busy"))
    shell.request("a", 20)
    assert shell.state("a") == "queued"
    shell.send(UnloadFailed("a", "busy"))
    (refused,) = shell.take(ReportRefused)
    assert refused.reason is Refusal.STUCK_UNLOAD


def test_what_is_over_capacity_is_shed_as_copies_become_idle() -> None:
    shell = Shell()
    shell.load("idle", 10)
    shell.load("busy", 20)
    shell.in_flight["busy"] = 1
    shell.now += 1
    shell.request("liar", 40)
    (start,) = shell.take(StartLoad)
    shell.in_flight["liar"] = 1
    shell.send(LoadFinished("liar", start.load_id, 85))
    assert [evicted.model_id for evicted in shell.take(ReportEvicted)] == ["idle"]
    shell.in_flight["busy"] = 0
    shell.send(Tick(), after_ms=100)
    assert [evicted.model_id for evicted in shell.take(ReportEvicted)] == ["busy"]
    assert shell.cache.used_units == 85


def test_a_size_learned_once_is_not_predicted_again_until_the_model_is_unregistered() -> None:
    shell = Shell()
    shell.load("a", 10, actual=25)
    shell.send(RuntimeLost("a"))
    shell.asked.clear()
    shell.send(LoadRequested("a", urgent=True))
    assert shell.seen(PredictSize) == []
    shell.send(RemoveRequested("a", RemovalReason.UNREGISTERED))
    shell.asked.clear()
    shell.send(LoadRequested("a", urgent=True))
    assert len(shell.seen(PredictSize)) == 1


def test_requests_in_flight_on_a_copy_that_leaves_are_shown() -> None:
    shell = Shell()
    shell.load("a", 20)
    shell.in_flight["a"] = 5
    shell.send(RemoveRequested("a", RemovalReason.DRAIN))
    shell.send(Used("a", shell.now, 3))
    copy = shell.cache.copy("a")
    assert copy is not None
    assert (copy.in_flight, copy.why) == (3, "removed: drain")


def test_the_average_size_stands_in_for_a_size_that_is_not_known_yet() -> None:
    shell = Shell()
    for number in range(10):
        shell.load(f"m{number}", 2)
    shell.send(LoadRequested("new", urgent=True))
    assert shell.cache.pending_units == 2
