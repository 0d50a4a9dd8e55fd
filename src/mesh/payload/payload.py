"""What a processor is given: one message of one inference call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeAlias

Data: TypeAlias = bytes | memoryview
"""Bytes of a message. A view is of memory that the data plane holds, and keeps it there for as long as it lives."""

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
"""Names in lower case with values, in order, repeated names included. Values of ``-bin`` names are bytes."""


PayloadKind: TypeAlias = Literal["request", "response"]
"""Which side of a call a payload is from."""


class Payload(Protocol):
    """One message of one inference call.

    Those of the data plane are views: nothing is copied, or even made an object of Python, before it is asked for. So
    read what is needed, once, and let go of the rest. Their bytes count against the instance's bound until the last
    reference to the payload and to its ``data`` is gone: whoever keeps payloads for long makes the data plane lose
    others. `PlainPayload` is one with attributes of its own, for changed copies and for tests.
    """

    @property
    def id(self) -> str:
        """Of the call, the same for its request and its response; unique over instances and their restarts."""

    @property
    def kind(self) -> PayloadKind:
        """Which side of the call it is from."""

    @property
    def model_id(self) -> str:
        """The concrete model; empty where none was found, or the request named several."""

    @property
    def vmodel_id(self) -> str:
        """Empty where the request named no vmodel."""

    @property
    def method(self) -> str:
        """Full method name, ``package.Service/Method``."""

    @property
    def status(self) -> str | None:
        """Name of the gRPC status code; None of a request."""

    @property
    def metadata(self) -> Metadata:
        """Headers of the request, or the initial metadata of the response."""

    @property
    def data(self) -> Data | None:
        """The message as it was serialized, without compression; None of a response that has none, such as an error."""

    @property
    def size(self) -> int:
        """Bytes of ``data``, known without making a view of it."""

    @property
    def time(self) -> float:
        """Epoch seconds when the call arrived, or when its response ended."""

    @property
    def sequence(self) -> int:
        """Which message of its kind in its call, from 0; others than 0 are of streams alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainPayload:
    """A payload with attributes of its own; as `Payload` says."""

    id: str
    kind: PayloadKind
    model_id: str = ""
    vmodel_id: str = ""
    method: str = ""
    status: str | None = None
    metadata: Metadata = ()
    data: Data | None = None
    time: float = 0.0
    sequence: int = 0

    @property
    def size(self) -> int:
        """Bytes of ``data``."""
        return 0 if self.data is None else len(self.data)

    @classmethod
    def of(cls, payload: Payload) -> Self:
        """A copy to change with `dataclasses.replace`; its data is the same memory."""
        return cls(
            id=payload.id,
            kind=payload.kind,
            model_id=payload.model_id,
            vmodel_id=payload.vmodel_id,
            method=payload.method,
            status=payload.status,
            metadata=payload.metadata,
            data=payload.data,
            time=payload.time,
            sequence=payload.sequence,
        )


def last_values(metadata: Metadata) -> Mapping[str, str | bytes]:
    """Of each name the last value, as KServe ModelMesh tells metadata."""
    return dict(metadata)
