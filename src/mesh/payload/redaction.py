"""Takes out of payloads what a sink is not to see."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from mesh.payload.messages import Message, NotReadable, Sent, parse_whole, sent_in
from mesh.payload.payload import Metadata, Payload, PlainPayload

#: The value that a redacted header gets.
REDACTED = "[redacted]"
#: Stands for all tensors, or all headers.
ALL = "*"

_EMPTY_BYTES_ELEMENT = bytes(4)


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is replaced in payloads.

    Attributes:
        tensors: names of inputs and outputs, or ``*``; their elements become zeros, and empty where they are BYTES.
            Name, datatype and shape stay, so that the message can be read as before.
        headers: names in lower case, or ``*``; their values become ``[redacted]``.
    """

    tensors: frozenset[str] = frozenset()
    headers: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tensors: Iterable[str], headers: Iterable[str]) -> "Redaction":
        """What a configuration lists; names of headers in any case."""
        return cls(frozenset(tensors), frozenset(name.lower() for name in headers))

    def __bool__(self) -> bool:
        return bool(self.tensors or self.headers)

    def apply(self, payload: Payload) -> Payload:
        """The payload with all that is to be replaced replaced, in the bytes of its message, too.

        Raises:
            NotReadable: tensors are to be replaced and the message cannot be read. It must not be passed on.
        """
        changed = PlainPayload.of(payload)
        if self.headers:
            changed = dataclasses.replace(changed, metadata=self._headers(payload.metadata))
        if self.tensors and payload.data is not None:
            whole, message = parse_whole(payload)
            self._erase(message)
            changed = dataclasses.replace(changed, data=whole.SerializeToString())
        return changed

    def _headers(self, metadata: Metadata) -> Metadata:
        everything = ALL in self.headers
        return tuple(
            (name, _redacted(value) if everything or name in self.headers else value)
            for name, value in metadata
        )

    def _erase(self, message: Message) -> None:
        tensors, raw = sent_in(message)
        if len(raw) > len(tensors):
            raise NotReadable(
                f"{len(raw)} raw contents for {len(tensors)} tensors: whose they are cannot be told"
            )
        for index, tensor in enumerate(tensors):
            if ALL not in self.tensors and tensor.name not in self.tensors:
                continue
            # The parameters may hold the data, or say how large it was.
            tensor.parameters.clear()
            tensor.DiscardUnknownFields()
            if index < len(raw):
                raw[index] = _blank_raw(tensor, raw[index])
            for field, values in tensor.contents.ListFields():
                blank = [b"" if field.name == "bytes_contents" else 0] * len(values)
                del values[:]
                values.extend(blank)


def _blank_raw(tensor: Sent, raw: bytes) -> bytes:
    if tensor.datatype != "BYTES":
        return bytes(len(raw))
    # Lengths would tell something, too.
    elements = 1
    for length in tensor.shape:
        elements *= length
    return _EMPTY_BYTES_ELEMENT * min(elements, len(raw) // len(_EMPTY_BYTES_ELEMENT))


def _redacted(value: str | bytes) -> str | bytes:
    return REDACTED.encode() if isinstance(value, bytes) else REDACTED
