"""A shell around `LocalCache` without a runtime: tests decide what happens and look at what was asked for."""

from collections.abc import Callable
from typing import TypeVar

from mesh.placement import (
    CacheLimits,
    CloseCopy,
    CopyBusy,
    CopyClosed,
    Event,
    EvictionPolicy,
    Instruction,
    LoadFinished,
    LoadRequested,
    LocalCache,
    Register,
    Registered,
    SizePredicted,
    StartLoad,
    StartUnload,
    UnloadFinished,
)

T = TypeVar("T")

START_MS = 1_800_000_000_000


def limits(**changes: int) -> CacheLimits:
    """100 units of which 10 are the unload buffer, two loaders, no churn guard."""
    values = {
        "capacity": 100,
        "unload_buffer": 10,
        "default_model": 10,
        "loader_threads": 2,
        "loading_timeout_ms": 90_000,
        "min_churn_age_ms": 0,
        "full_threshold": 10,
        "just_loaded_ms": 0,
    }
    return CacheLimits(**(values | changes))


class Shell:
    """Answers `CloseCopy` at once, as the data plane does; all else is up to the test."""

    def __init__(self, cache_limits: CacheLimits | None = None, policy: EvictionPolicy | None = None) -> None:
        self.cache = LocalCache(cache_limits or limits(), policy)
        self.now = START_MS
        self.in_flight: dict[str, int] = {}
        #: Everything asked for since the last `take`.
        self.asked: list[Instruction] = []
        self.watch: Callable[[Instruction], None] = lambda _instruction: None

    def send(self, event: Event, after_ms: int = 0) -> None:
        self.now += after_ms
        for instruction in self.cache.handle(event, self.now):
            self.asked.append(instruction)
            self.watch(instruction)
            if isinstance(instruction, CloseCopy):
                requests = self.in_flight.get(instruction.model_id, 0)
                answer = (
                    CopyBusy(instruction.model_id, requests) if requests else CopyClosed(instruction.model_id)
                )
                self.send(answer)

    def take(self, kind: type[T]) -> list[T]:
        """Returns: the instructions of a kind since the last call, and forgets all."""
        found = self.seen(kind)
        self.asked.clear()
        return found

    def seen(self, kind: type[T]) -> list[T]:
        return [instruction for instruction in self.asked if isinstance(instruction, kind)]

    def request(self, model_id: str, units: int = 0, last_used_ms: int = 0, *, urgent: bool = True) -> None:
        """Asks for a load and has it registered; the size is predicted as ``units`` where that is not 0."""
        self.send(LoadRequested(model_id, last_used_ms, urgent))
        for register in self.seen(Register):
            if register.model_id == model_id:
                self.send(Registered(model_id, register.load_id))
                if units:
                    self.send(SizePredicted(model_id, register.load_id, units))

    def load(self, model_id: str, units: int, *, actual: int | None = None, last_used_ms: int = 0) -> None:
        """Loads a model to the end; unloads that it waits for are done at once."""
        self.request(model_id, units, last_used_ms)
        for unload in self.seen(StartUnload):
            self.send(UnloadFinished(unload.model_id))
        starts = [start for start in self.seen(StartLoad) if start.model_id == model_id]
        assert starts, f"{model_id} was not loaded: {self.asked}"
        self.send(LoadFinished(model_id, starts[-1].load_id, units if actual is None else actual))
        self.asked.clear()

    def state(self, model_id: str) -> str:
        copy = self.cache.copy(model_id)
        return "absent" if copy is None else copy.state.value
