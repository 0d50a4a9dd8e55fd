"""Traces from what instances have recorded (`MESH_RECORD_PATH`)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.simulation.files import InvalidTrace
from mesh.simulation.trace import Trace, TracedModel

#: An instance reads what was used at least so often: requests of one line came within this.
READ_EVERY_US = 500_000
#: Of a model of which no size, load or answer was recorded.
_SIZE_BYTES, _LOAD_MS, _SERVICE_MS = 1 << 20, 1_000.0, 1.0


@dataclass(slots=True)
class _Seen:
    type: str = ""
    size_bytes: int = 0
    load_ms: float = 0.0
    requests: int = 0
    service_ms: float = 0.0


def trace_of(paths: Iterable[Path]) -> Trace:
    """Makes one trace of the records of the instances of a mesh.

    The requests of a line are spread evenly over the time in which they came, half a second at most.

    Raises:
        OSError: a file cannot be read.
        InvalidTrace: a file is no such record.
    """
    seen: dict[str, _Seen] = {}
    requests: list[tuple[int, str]] = []
    for path in paths:
        before_us: dict[str, int] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                _take(json.loads(line), seen, requests, before_us)
            except (ValueError, TypeError, KeyError) as error:
                raise InvalidTrace(
                    f"{path}, line {number}: {error!r}; give files that MESH_RECORD_PATH named"
                ) from None
    requests.sort()
    numbers = {model_id: number for number, model_id in enumerate(sorted(seen))}
    trace = Trace([_traced(model_id, seen[model_id]) for model_id in numbers])
    begin_us = requests[0][0] if requests else 0
    for time_us, model_id in requests:
        trace.add(time_us - begin_us, numbers[model_id])
    return trace


def _take(
    value: Any, seen: dict[str, _Seen], requests: list[tuple[int, str]], before_us: dict[str, int]
) -> None:
    if isinstance(value, dict):
        if "format" in value:
            if (value["format"], value["version"]) != ("mesh-usage", 1):
                raise ValueError(f"format {value['format']!r}, version {value['version']} is not known")
            return
        model = seen.setdefault(value["model"], _Seen())
        model.type = value["type"] or model.type
        model.size_bytes = value["size_bytes"] or model.size_bytes
        model.load_ms = value["load_ms"] or model.load_ms
        return
    time_ms, model_id, count, mean_ms = value
    model = seen.setdefault(model_id, _Seen())
    if mean_ms:
        model.requests += count
        model.service_ms += mean_ms * count
    end_us = time_ms * 1_000
    begin_us = max(before_us.get(model_id, 0), end_us - READ_EVERY_US)
    before_us[model_id] = end_us
    requests.extend((end_us - (end_us - begin_us) * back // count, model_id) for back in range(count))


def _traced(model_id: str, seen: _Seen) -> TracedModel:
    mean_ms = seen.service_ms / seen.requests if seen.requests else _SERVICE_MS
    return TracedModel(
        model_id,
        seen.type,
        seen.size_bytes or _SIZE_BYTES,
        int((seen.load_ms or _LOAD_MS) * 1_000),
        max(1, int(mean_ms * 1_000)),
    )
