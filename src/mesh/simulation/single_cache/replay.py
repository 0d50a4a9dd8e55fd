"""Requests of a trace, one after the other, against the cache of one instance."""

from collections import deque
from dataclasses import dataclass

from mesh.placement import (
    CacheLimits,
    CloseCopy,
    CopyClosed,
    Event,
    EvictionPolicy,
    KnownSize,
    LoadFinished,
    LoadRequested,
    LocalCache,
    Register,
    Registered,
    ReportEvicted,
    StartLoad,
    StartUnload,
    UnloadFinished,
    Used,
    to_units,
)
from mesh.simulation.trace import Trace

#: The first moment of a trace, epoch milliseconds; any will do.
_EPOCH_MS = 1_800_000_000_000


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a trace cost.

    Attributes:
        loads: each for one request that found no copy.
        cold_start_ms: time that the loads took, together.
    """

    requests: int
    loads: int
    evictions: int
    cold_start_ms: float

    @property
    def hit_rate(self) -> float:
        """Share of the requests that found a copy."""
        return 1 - self.loads / self.requests if self.requests else 0.0


def replay(trace: Trace, capacity_units: int, policy: EvictionPolicy) -> Replayed:
    """Sends all requests of a trace to one `LocalCache`.

    A load is done before the next request comes, however long it is taken to last, and an unload at once: so all
    policies, and the offline optimum, are given the same requests in the same order. Nothing is protected from eviction
    for being used or loaded a moment ago.

    Args:
        trace: its models must fit into the capacity one by one.
        capacity_units: of 8 KiB.
        policy: what is evicted.

    Raises:
        ValueError: a model that is requested does not fit.
    """
    cache = LocalCache(
        CacheLimits(
            capacity=capacity_units,
            unload_buffer=0,
            default_model=1,
            loader_threads=1,
            loading_timeout_ms=86_400_000,
            min_churn_age_ms=0,
            full_threshold=1,
            just_loaded_ms=0,
        ),
        policy,
    )
    models = [(model.model_id, to_units(model.size_bytes), model.load_us / 1_000) for model in trace.traced]
    load_ms_of = {model_id: max(1, round(load_ms)) for model_id, _, load_ms in models}
    loaded: set[str] = set()
    loads = evictions = 0
    cold_start_ms = 0.0
    events: deque[Event] = deque()
    for time_us, number in trace.requests():
        now_ms = _EPOCH_MS + time_us // 1_000
        model_id, units, load_ms = models[number]
        if model_id in loaded:
            cache.handle(Used(model_id, now_ms), now_ms)
            continue
        if units > capacity_units:
            raise ValueError(f"{model_id} of {units} units does not fit into {capacity_units} units")
        loads += 1
        cold_start_ms += load_ms
        events.append(LoadRequested(model_id, now_ms, urgent=True, size=KnownSize(units)))
        while events:
            for instruction in cache.handle(events.popleft(), now_ms):
                match instruction:
                    case Register():
                        events.append(Registered(instruction.model_id, instruction.load_id))
                    case StartLoad():
                        done = LoadFinished(
                            instruction.model_id, instruction.load_id, units, load_ms_of[instruction.model_id]
                        )
                        events.append(done)
                    case CloseCopy():
                        events.append(CopyClosed(instruction.model_id))
                    case StartUnload():
                        events.append(UnloadFinished(instruction.model_id))
                    case ReportEvicted():
                        evictions += 1
                        loaded.discard(instruction.model_id)
                    case _:
                        pass
        loaded.add(model_id)
    return Replayed(len(trace), loads, evictions, cold_start_ms)
