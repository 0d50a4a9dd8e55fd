"""How the values of the registry become records, and back."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from mesh.registry.errors import InvalidRecord
from mesh.registry.records import InstanceRecord, ModelRecord, Record, VModelRecord
from mesh.registry.store import Entry

R = TypeVar("R")
T = TypeVar("T", bound=Record)


class Codec(Protocol[R]):
    """Reads and writes the values of one prefix."""

    def decode(self, entry: Entry) -> R:
        """Reads an entry.

        Raises:
            InvalidRecord: its value is not what it should be.
        """
        ...

    def encode(self, record: R) -> bytes:
        """Writes a record's value."""
        ...


class RecordCodec(Codec[T]):
    """JSON of one kind of record."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)
        self._names = {field.encode_name for field in msgspec.structs.fields(kind)}

    def decode(self, entry: Entry) -> T:
        """See `Codec`."""
        try:
            return self._decoder.decode(entry.value)
        except msgspec.ValidationError:
            return self._decode_foreign(entry)
        except msgspec.DecodeError as error:
            raise InvalidRecord(entry.key, f"not JSON: {error}") from error

    def encode(self, record: T) -> bytes:
        """See `Codec`."""
        if not record.unknown:
            return _ENCODER.encode(record)
        body = _ENCODER.encode(replace(record, unknown=_DEFAULT.unknown))
        tail = _ENCODER.encode(record.unknown)
        return tail if body == b"{}" else body[:-1] + b"," + tail[1:]

    def _decode_foreign(self, entry: Entry) -> T:
        try:
            members = _MEMBERS.decode(entry.value)
            known = {
                name: raw for name, raw in members.items() if name in self._names and bytes(raw) != b"null"
            }
            unknown = {name: raw.copy() for name, raw in members.items() if name not in self._names}
            record = self._decoder.decode(msgspec.json.encode(known))
        except msgspec.MsgspecError as error:
            raise InvalidRecord(entry.key, f"no {self._kind.__name__}: {error}") from error
        return replace(record, unknown=unknown) if unknown else record


class TextCodec(Codec[str]):
    """Plain text in UTF-8."""

    def decode(self, entry: Entry) -> str:
        """See `Codec`."""
        try:
            return entry.value.decode()
        except UnicodeDecodeError as error:
            raise InvalidRecord(entry.key, f"no UTF-8 text: {error}") from error

    def encode(self, record: str) -> bytes:
        """See `Codec`."""
        return record.encode()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)
_MEMBERS: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DEFAULT: Any = Record()

MODELS = RecordCodec(ModelRecord)
INSTANCES = RecordCodec(InstanceRecord)
VMODELS = RecordCodec(VModelRecord)
TEXT = TextCodec()
