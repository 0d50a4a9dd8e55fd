"""Payloads, and what a processor is opened with, for tests of processors."""

from collections import Counter
from typing import Any

from mesh.payload import Data, Event, Options, PlainPayload

METHOD = "inference.GRPCInferenceService/ModelInfer"


class Told:
    """Keeps what a processor reports."""

    def __init__(self) -> None:
        self.losses: Counter[str] = Counter()
        self.events: list[Event] = []

    def lost(self, count: int, reason: str) -> None:
        self.losses[reason] += count

    def event(self, event: Event) -> None:
        self.events.append(event)


def options(told: Told | None = None, /, **members: Any) -> Options:
    """As a processor named ``tested`` gets them on instance ``i1``."""
    return Options("tested", told or Told(), members, instance_id="i1")


def request(data: Data = b"q", /, **attributes: Any) -> PlainPayload:
    """The request of a call of model ``m``."""
    return PlainPayload(**_CALL | {"kind": "request", "data": data} | attributes)


def response(data: Data | None = b"a", /, **attributes: Any) -> PlainPayload:
    """The response to `request`."""
    return PlainPayload(**_CALL | {"kind": "response", "data": data, "status": "OK"} | attributes)


_CALL: dict[str, Any] = {"id": "c1", "model_id": "m", "method": METHOD, "time": 1_700_000_000.0}
