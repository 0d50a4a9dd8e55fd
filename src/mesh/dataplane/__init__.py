"""The typed face of the Rust data plane: listeners, routes and connections inside this process.

Python decides, Rust moves bytes. What each call does is written in the stub of the extension module.
"""

from mesh.dataplane._dataplane import (
    SIZE_BOUNDS_BYTES,
    TIME_BOUNDS_MS,
    Ask,
    Call,
    Caller,
    Comparison,
    DataPlane,
    Difference,
    HistogramSample,
    LogEntry,
    Payload,
    PayloadBatch,
    PayloadQueue,
    Scrape,
    Server,
    Talk,
    Totals,
    TracedRequest,
    TracedStep,
    Usage,
)
from mesh.dataplane.kinds import AskReason, EndpointKind

__all__ = [
    "SIZE_BOUNDS_BYTES",
    "TIME_BOUNDS_MS",
    "Ask",
    "AskReason",
    "Call",
    "Caller",
    "Comparison",
    "DataPlane",
    "Difference",
    "EndpointKind",
    "HistogramSample",
    "LogEntry",
    "Payload",
    "PayloadBatch",
    "PayloadQueue",
    "Scrape",
    "Server",
    "Talk",
    "Totals",
    "TracedRequest",
    "TracedStep",
    "Usage",
]
