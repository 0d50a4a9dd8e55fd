"""A place in a trace, as W3C Trace Context names it."""

import re
from dataclasses import dataclass
from enum import StrEnum
from random import getrandbits

_TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


class SpanKind(StrEnum):
    """Which side of a call a span is, as OpenTelemetry has it."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class SpanContext:
    """A span of a sampled trace.

    Attributes:
        trace_id: 128 bits.
        span_id: 64 bits.
    """

    trace_id: int
    span_id: int

    @staticmethod
    def parse(traceparent: str) -> "SpanContext":
        """Reads what `traceparent` gives.

        Raises:
            ValueError: it is none of version 00.
        """
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is None:
            raise ValueError(f"traceparent {traceparent!r} is not 00-<32 digits>-<16 digits>-<2 digits>")
        return SpanContext(int(found[1], 16), int(found[2], 16))

    @property
    def trace_hex(self) -> str:
        """The trace's id in 32 hexadecimal digits."""
        return f"{self.trace_id:032x}"

    @property
    def traceparent(self) -> str:
        """The header that makes a callee's span a child of this one; sampled, with an id that is random."""
        return f"00-{self.trace_hex}-{self.span_id:016x}-03"

    def child(self) -> "SpanContext":
        """A new span of the same trace."""
        return SpanContext(self.trace_id, getrandbits(64) or 1)
