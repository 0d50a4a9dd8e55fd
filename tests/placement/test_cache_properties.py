"""What holds for one instance's cache whatever happens, in whatever order."""

from collections import Counter
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.placement import (
    CancelLoad,
    CloseCopy,
    CopyState,
    Deregister,
    EvictionPolicy,
    EvictionRanking,
    ForgetFailure,
    Instruction,
    KnownSize,
    LimitsChanged,
    LoadFailed,
    LoadFinished,
    LoadRequested,
    LoadTimedOut,
    MeasureSize,
    PredictSize,
    ProtectionChanged,
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
)
from tests.placement.shell import Shell, limits

MODELS = [f"m{number}" for number in range(8)]
models = st.sampled_from(MODELS)
IN_RUNTIME = {CopyState.LOADING, CopyState.SIZING, CopyState.LOADED}


@dataclass
class Held:
    """What the runtime really holds of one model."""

    set_aside: int
    actual: int


class CacheMachine(RuleBasedStateMachine):
    """Plays data plane, registry and runtime against the cache, each as unkind as it may be."""

    def __init__(self) -> None:
        super().__init__()
        self.shell = Shell()
        self.registering: dict[str, int] = {}
        self.predicting: dict[str, int] = {}
        self.loading: dict[str, int] = {}
        self.measuring: dict[str, int] = {}
        self.unloading: set[str] = set()
        #: Requests for a load that have not been answered.
        self.waiting: set[str] = set()
        self.registered: set[str] = set()
        self.routed: set[str] = set()
        self.known: set[str] = set()
        #: Bookings that prediction got wrong, so that more is held than was set aside.
        self.growth: Counter[str] = Counter()
        self.lost = 0
        self.pinned: set[str] = set()
        self.set_aside: dict[str, int] = {}

    @initialize(
        loader_threads=st.integers(1, 3),
        churn_ms=st.sampled_from([0, 5_000]),
        just_loaded_ms=st.sampled_from([0, 1_000]),
        ranking=st.sampled_from(EvictionRanking),
    )
    def start(
        self, loader_threads: int, churn_ms: int, just_loaded_ms: int, ranking: EvictionRanking
    ) -> None:
        self.shell = Shell(
            limits(
                loader_threads=loader_threads,
                min_churn_age_ms=churn_ms,
                just_loaded_ms=just_loaded_ms,
                failure_expiry_ms=60_000,
            ),
            EvictionPolicy(ranking),
        )
        self.shell.watch = self.obey

    # What the cache asks for.

    def obey(self, instruction: Instruction) -> None:
        model_id = getattr(instruction, "model_id", None)
        assert model_id is None or model_id in self.known, f"{instruction} is about an unknown model"
        match instruction:
            case Register():
                self.registering[instruction.model_id] = instruction.load_id
                self.registered.add(instruction.model_id)
            case PredictSize():
                self.predicting[instruction.model_id] = instruction.load_id
            case StartLoad():
                assert instruction.model_id not in self.loading, "two loads of one model"
                assert instruction.model_id not in self.unloading, "a load during an unload of the same model"
                assert instruction.model_id not in self.routed
                self.loading[instruction.model_id] = instruction.load_id
                self.set_aside[instruction.model_id] = instruction.units
                assert len(self.loading) <= self.shell.cache.limits.loader_threads
            case CancelLoad():
                assert self.loading.pop(instruction.model_id) == instruction.load_id
            case MeasureSize():
                self.measuring[instruction.model_id] = instruction.load_id
            case CloseCopy(drain=drain):
                if drain or not self.shell.in_flight.get(instruction.model_id):
                    self.routed.discard(instruction.model_id)
            case Deregister():
                self.registered.discard(instruction.model_id)
                if instruction.why.startswith("the runtime"):
                    self.routed.discard(instruction.model_id)
            case StartUnload():
                assert instruction.model_id not in self.loading, "an unload during a load of the same model"
                assert instruction.model_id not in self.routed, "an unload of a copy that serves"
                self.unloading.add(instruction.model_id)
            case ReportSize():
                copy = self.shell.cache.copy(instruction.model_id)
                assert copy is not None
                if instruction.source is SizeSource.DECLARED and copy.state is not CopyState.FAILED:
                    assert copy.units == instruction.expected_units
                assert self.shell.cache.learned_units(instruction.model_id) == instruction.units
            case ReportLoaded():
                assert instruction.model_id in self.waiting
                self.waiting.remove(instruction.model_id)
                self.routed.add(instruction.model_id)
                assert instruction.model_id in self.registered
            case ReportFailed():
                assert instruction.model_id in self.waiting
                self.waiting.remove(instruction.model_id)
                if instruction.fresh:
                    self.registered.discard(instruction.model_id)
                assert instruction.message
            case ReportRefused():
                assert instruction.model_id in self.waiting
                self.waiting.remove(instruction.model_id)
                assert instruction.model_id not in self.registered
                assert instruction.message
            case ReportEvicted():
                assert not self.shell.in_flight.get(instruction.model_id), "evicted with requests in flight"
                assert instruction.model_id not in self.pinned
                assert instruction.age_ms >= 0
            case ReportCapacityLost():
                self.lost += instruction.units
            case ForgetFailure():
                assert instruction.model_id not in self.registered
            case _:
                pass

    # What happens.

    @rule(
        model_id=models,
        age_ms=st.integers(-2_000, 100_000),
        urgent=st.booleans(),
        learned=st.sampled_from([0, 0, 1, 15, 40, 120]),
        declared=st.sampled_from([0, 0, 0, 10, 30]),
    )
    def request(self, model_id: str, age_ms: int, urgent: bool, learned: int, declared: int = 0) -> None:
        self.known.add(model_id)
        self.waiting.add(model_id)
        size = KnownSize(declared, learned)
        self.shell.send(LoadRequested(model_id, self.shell.now - age_ms, urgent, size))

    @rule(model_id=models, units=st.sampled_from([1, 20, 30, 45, 90]), told=st.sampled_from([-1, -1, 0, 60]))
    def load(self, model_id: str, units: int, told: int) -> None:
        """All the steps of a load at once, as far as they come, so that caches fill up."""
        self.request(model_id, 0, True, 0)
        if model_id in self.registering:
            self.shell.send(Registered(model_id, self.registering.pop(model_id)))
        if model_id in self.predicting:
            self.shell.send(SizePredicted(model_id, self.predicting.pop(model_id), units))
        if model_id in self.loading:
            self.end_load(model_id, self.loading.pop(model_id), told)

    @precondition(lambda self: self.registering)
    @rule(data=st.data(), accept=st.sampled_from([True, True, True, False]))
    def answer_registration(self, data: st.DataObject, accept: bool) -> None:
        model_id, load_id = self.pick(data, self.registering)
        if accept:
            self.shell.send(Registered(model_id, load_id))
        else:
            copy = self.shell.cache.copy(model_id)
            if copy is not None and copy.state is CopyState.NEW:
                self.registered.discard(model_id)
            self.shell.send(RegistrationRefused(model_id, load_id, "another was first"))

    @precondition(lambda self: self.predicting)
    @rule(data=st.data(), units=st.sampled_from([None, 1, 8, 20, 20, 45, 45, 90, 91]))
    def predict(self, data: st.DataObject, units: int | None) -> None:
        model_id, load_id = self.pick(data, self.predicting)
        self.shell.send(SizePredicted(model_id, load_id, units))

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), units=st.sampled_from([-1, -1, -1, -1, 0, 5, 30, 60, 95]))
    def finish_load(self, data: st.DataObject, units: int) -> None:
        self.end_load(*self.pick(data, self.loading), units)

    def end_load(self, model_id: str, load_id: int, units: int) -> None:
        told = self.set_aside[model_id] if units == -1 else units
        self.growth[model_id] = max(0, told - self.set_aside[model_id])
        self.shell.send(LoadFinished(model_id, load_id, told))

    @precondition(lambda self: self.measuring)
    @rule(data=st.data(), units=st.sampled_from([None, 1, 10, 40, 95]))
    def measure(self, data: st.DataObject, units: int | None) -> None:
        model_id, load_id = self.pick(data, self.measuring)
        copy = self.shell.cache.copy(model_id)
        if copy is not None and copy.state is CopyState.SIZING and units is not None:
            self.growth[model_id] = max(0, units - self.set_aside[model_id])
        self.shell.send(SizeMeasured(model_id, load_id, units))

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), timed_out=st.booleans(), started=st.booleans())
    def fail_load(self, data: st.DataObject, timed_out: bool, started: bool) -> None:
        model_id, load_id = self.pick(data, self.loading)
        if timed_out:
            self.shell.send(LoadTimedOut(model_id, load_id))
        else:
            self.shell.send(LoadFailed(model_id, load_id, 13, "broken", started))

    @rule(model_id=models, requests=st.integers(0, 2))
    def use(self, model_id: str, requests: int) -> None:
        if model_id in self.routed:
            self.shell.in_flight[model_id] = requests
            self.shell.send(Used(model_id, self.shell.now, requests))

    @rule(model_id=models, priority=st.integers(-1, 1), unlikely=st.integers(0, 4))
    def protect(self, model_id: str, priority: int, unlikely: int) -> None:
        (self.pinned.add if unlikely == 4 else self.pinned.discard)(model_id)
        self.shell.send(ProtectionChanged(model_id, priority, unlikely == 4))

    @rule(model_id=models, units=st.sampled_from([0, 0, 5, 30, 60, 95]))
    def declare(self, model_id: str, units: int) -> None:
        before = self.shell.cache.copy(model_id)
        declared = f"{model_id} declared"
        if before is not None and before.state is not CopyState.UNLOADING:
            # What was admitted is larger now than what was set aside for it.
            self.growth[declared] = max(self.growth[declared], 95 - before.units)
        self.shell.send(SizeDeclared(model_id, units))

    @rule(model_id=models)
    def end_requests(self, model_id: str) -> None:
        self.shell.in_flight.pop(model_id, None)

    @rule(model_id=models, reason=st.sampled_from(RemovalReason))
    def remove(self, model_id: str, reason: RemovalReason) -> None:
        self.shell.send(RemoveRequested(model_id, reason))

    @precondition(lambda self: self.unloading)
    @rule(data=st.data())
    def finish_unload(self, data: st.DataObject) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.unloading)))
        self.unloading.remove(model_id)
        self.forget_growth(model_id)
        self.shell.in_flight.pop(model_id, None)
        self.shell.send(UnloadFinished(model_id))

    @precondition(lambda self: self.unloading)
    @rule(data=st.data(), times=st.sampled_from([1, 1, 90]))
    def fail_unload(self, data: st.DataObject, times: int) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.unloading)))
        for _ in range(times):
            if model_id in self.unloading:
                self.unloading.remove(model_id)
                self.shell.send(UnloadFailed(model_id, "busy"))

    @precondition(lambda self: self.routed)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.routed)))
        self.routed.remove(model_id)
        self.forget_growth(model_id)
        self.shell.in_flight.pop(model_id, None)
        self.shell.send(RuntimeLost(model_id))

    @rule(after_ms=st.sampled_from([1, 100, 1_000, 10_000, 60_000, 180_000]))
    def pass_time(self, after_ms: int) -> None:
        self.shell.send(Tick(), after_ms)

    @rule(unlikely=st.integers(0, 9), capacity=st.sampled_from([100, 100, 50, 200]))
    def restart_runtime(self, unlikely: int, capacity: int) -> None:
        if unlikely == 9:
            self.unloading.clear()
            self.routed.clear()
            self.growth.clear()
            self.shell.in_flight.clear()
            self.lost = 0
            self.shell.send(RuntimeRestarted())
            cache = self.shell.cache
            # Loads that had begun are not known to have ended, and some were admitted for another capacity.
            self.growth["before the restart"] = max(
                0, cache.used_units - capacity + cache.limits.unload_buffer, cache.resident_units - capacity
            )
            self.shell.send(LimitsChanged(replace(cache.limits, capacity=capacity)))

    @rule(unlikely=st.integers(0, 19))
    def shut_down(self, unlikely: int) -> None:
        if unlikely == 19:
            self.shell.send(ShutdownStarted())

    def forget_growth(self, model_id: str) -> None:
        self.growth.pop(model_id, None)
        if model_id not in self.shell.cache:
            self.growth.pop(f"{model_id} declared", None)

    def pick(self, data: st.DataObject, of: dict[str, int]) -> tuple[str, int]:
        model_id = data.draw(st.sampled_from(sorted(of)))
        return model_id, of.pop(model_id)

    # What holds.

    @invariant()
    def books_balance(self) -> None:
        cache = self.shell.cache
        entries = [copy for copy in cache.copies() if copy.state is not CopyState.UNLOADING]
        unloads = [copy for copy in cache.copies() if copy.state is CopyState.UNLOADING]
        counted = [copy for copy in entries if copy.state is not CopyState.NEW]
        assert cache.used_units == sum(copy.units for copy in counted)
        assert cache.pending_units == sum(copy.units for copy in entries if copy.state is CopyState.NEW)
        assert cache.resident_units == sum(copy.units for copy in entries if copy.state in IN_RUNTIME)
        assert cache.unloading_units == sum(copy.units for copy in unloads)
        assert cache.lost_units == self.lost
        assert len(cache) == len(entries)
        assert cache.loads_in_progress == len(self.waiting)
        assert cache.oldest_used_ms == min(
            (
                copy.last_used_ms
                for copy in entries
                if copy.model_id not in self.pinned or copy.state is CopyState.FAILED
            ),
            default=2**63 - 1,
        )
        assert min(cache.used_units, cache.pending_units, cache.resident_units, cache.unloading_units) >= 0

    @invariant()
    def memory_is_not_promised_twice(self) -> None:
        cache = self.shell.cache
        growth = sum(self.growth.values())
        held = cache.resident_units + cache.unloading_units + cache.lost_units
        assert held <= cache.limits.capacity + growth
        assert cache.deficit_units == max(0, held - cache.limits.capacity)
        assert cache.used_units <= cache.capacity_units + growth + cache.lost_units

    @invariant()
    def copies_that_serve_are_known(self) -> None:
        serving = {
            copy.model_id
            for copy in self.shell.cache.copies()
            if copy.state in {CopyState.LOADED, CopyState.SIZING}
        }
        assert serving == self.routed
        assert serving <= self.registered

    def teardown(self) -> None:
        """Whatever was begun comes to an end, and then nothing is left unloading."""
        shell = self.shell
        shell.in_flight.clear()
        for _ in range(400):
            if not (self.waiting or self.unloading or shell.cache.unloading_units):
                break
            for model_id, load_id in list(self.registering.items()):
                del self.registering[model_id]
                shell.send(Registered(model_id, load_id))
            for model_id, load_id in list(self.predicting.items()):
                del self.predicting[model_id]
                shell.send(SizePredicted(model_id, load_id, None))
            for model_id, load_id in list(self.loading.items()):
                del self.loading[model_id]
                shell.send(LoadFinished(model_id, load_id, self.set_aside[model_id]))
            for model_id in list(self.unloading):
                self.unloading.remove(model_id)
                self.forget_growth(model_id)
                shell.send(UnloadFinished(model_id))
            shell.send(Tick(), 1_000)
        assert not self.waiting
        assert shell.cache.unloading_units == 0
        assert shell.cache.loads_in_progress == 0
        self.books_balance()


TestCache = CacheMachine.TestCase
TestCache.settings = settings(
    max_examples=150,
    stateful_step_count=70,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
