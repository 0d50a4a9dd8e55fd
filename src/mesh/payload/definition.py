"""How processors are configured: as KServe ModelMesh has it, in one string, or as JSON with all that can be set."""

import re
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta

from mesh.payload.processor import InvalidProcessor
from mesh.payload.schemes import scheme_of

#: Payloads that wait for a processor of the string, as KServe ModelMesh has it.
STRING_CAPACITY = 64
#: Batches at once for a processor of the string; KServe ModelMesh has as many threads, of which one delivers.
STRING_CONSUMERS = 2
#: Processors of one instance.
MAX_PROCESSORS = 10_000
#: Names of the string's processors begin so, and no others.
STRING_NAME = "env-"

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")

Positive = Annotated[int, Meta(ge=1)]


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One processor, and which payloads it gets in which way.

    Attributes:
        uri: its scheme says what it is; the rest is the processor's to read. Nothing in it is a filter.
        models: ids of models and vmodels whose calls it gets; any where empty.
        methods: full names, ``package.Service/Method``; any where empty.
        sample: share of these calls, above 0. Of a call it gets both payloads, or none.
        capacity: payloads that wait for it at most; more are lost.
        consumers: batches that it is given at the same time.
        batch_size: payloads in one batch at most.
        batch_wait_ms: how long the first payload of a batch waits for others, milliseconds.
        timeout_ms: after which a batch that it has not taken counts as not delivered, milliseconds.
        attempts: how often a batch is given to it, in all.
        backoff_ms: before the second attempt, milliseconds; doubled for each further one, and moved about.
        max_backoff_ms: bound of that, milliseconds.
        redact_tensors: names of inputs and outputs, or ``*``, whose elements it is not to see; see `Redaction`.
        redact_headers: names of headers, or ``*``, whose values it is not to see.
        options: the processor's own members.
    """

    uri: str
    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    sample: Annotated[float, Meta(gt=0, le=1)] = 1.0
    capacity: Annotated[int, Meta(ge=2, le=1_000_000)] = 4_096
    consumers: Annotated[int, Meta(ge=1, le=64)] = 2
    batch_size: Annotated[int, Meta(ge=1, le=10_000)] = 256
    batch_wait_ms: Annotated[int, Meta(ge=0, le=600_000)] = 50
    timeout_ms: Annotated[int, Meta(ge=1, le=3_600_000)] = 10_000
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    backoff_ms: Positive = 200
    max_backoff_ms: Positive = 10_000
    redact_tensors: tuple[str, ...] = ()
    redact_headers: tuple[str, ...] = ()
    options: dict[str, Any] = {}

    def text(self) -> str:
        """A JSON object, without what is as it would be anyway."""
        return msgspec.json.encode(self).decode()

    def takes_as(self, other: "Definition") -> bool:
        """Whether both differ in nothing but which calls they get, so that no processor has to be opened anew."""
        same = msgspec.structs.replace(other, models=self.models, methods=self.methods, sample=self.sample)
        return same == self


@dataclass(frozen=True, slots=True)
class Named:
    """A configured processor.

    Attributes:
        definition: None where it cannot be.
        trouble: why not.
        text: as it was configured.
    """

    definition: Definition | None
    trouble: str = ""
    text: str = ""


def parse_string(
    text: str, *, capacity: int = STRING_CAPACITY, consumers: int = STRING_CONSUMERS
) -> dict[str, Named]:
    """Reads URIs that are separated by spaces, as KServe ModelMesh has them in ``MM_PAYLOAD_PROCESSORS``.

    A query is the id of the model or vmodel whose payloads are wanted, a fragment the method's full name; both are
    exact, and ``*`` or nothing stands for any. One ``/`` before the id is not part of it. The query stays in the
    processor's URI, the fragment does not.

    Args:
        capacity: of each.
        consumers: of each.

    Returns: by name, ``env-1`` and so on; those that cannot be are told with why.
    """
    found: dict[str, Named] = {}
    for number, entry in enumerate(text.split(), 1):
        try:
            definition = _parse_entry(entry, capacity, consumers)
        except InvalidProcessor as error:
            found[f"{STRING_NAME}{number}"] = Named(None, str(error), entry)
        else:
            found[f"{STRING_NAME}{number}"] = Named(definition, text=entry)
    return found


def _parse_entry(entry: str, capacity: int, consumers: int) -> Definition:
    scheme_of(entry)
    try:
        parts = urlsplit(entry)
        _ = parts.port
    except ValueError as error:
        raise InvalidProcessor(f"payload processor {entry!r} is no URI: {error}") from None
    model_id = unquote(parts.query).removeprefix("/")
    method = unquote(parts.fragment).removeprefix("/")
    return Definition(
        uri=entry.partition("#")[0],
        models=() if model_id in _ANY else (model_id,),
        methods=() if method in _ANY else (method,),
        capacity=max(capacity, 2),
        consumers=consumers,
    )


_ANY = frozenset({"", "*"})


def read_definition(members: object) -> Definition:
    """Reads one processor from JSON values.

    Raises:
        InvalidProcessor: naming the member, its value and what it may be.
    """
    try:
        definition = msgspec.convert(members, Definition)
    except msgspec.ValidationError as error:
        raise InvalidProcessor(f"payload processor: {_plainly(str(error))}") from None
    scheme_of(definition.uri)
    for what, values in (("models", definition.models), ("methods", definition.methods)):
        if "" in values:
            raise InvalidProcessor(f"payload processor {definition.uri!r}: {what} has an empty name")
    if "#" in definition.uri:
        raise InvalidProcessor(
            f"payload processor {definition.uri!r}: a fragment means nothing here; name methods in the member "
            "'methods'"
        )
    return definition


def _plainly(message: str) -> str:
    if "unknown field" in message:
        return f"{message}; there are {', '.join(Definition.__struct_fields__)}"
    return message.replace("`$.", "`")


def read_definition_text(text: str | bytes) -> Definition:
    """Reads one processor from the text of a JSON object; raises as `read_definition`."""
    try:
        members = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidProcessor(f"payload processor: {text!r} is no JSON: {error}") from None
    return read_definition(members)


def read_file(text: str | bytes) -> dict[str, Named]:
    """Reads a JSON object of processors by name.

    Returns: each; those that cannot be are told with why.

    Raises:
        InvalidProcessor: it is no such object, or a name cannot be one.
    """
    try:
        members = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidProcessor(f"must be a JSON object of processors by name: {error}") from None
    return {check_name(name): _read_named(definition) for name, definition in members.items()}


def _read_named(members: Any) -> Named:
    try:
        return Named(read_definition(members), text=msgspec.json.encode(members).decode())
    except InvalidProcessor as error:
        return Named(None, str(error), msgspec.json.encode(members).decode())


def check_name(name: str) -> str:
    """A name, if it can be one.

    Raises:
        InvalidProcessor: it cannot; the message says why.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidProcessor(
            f"{name!r} cannot be the name of a payload processor: it must be 1 to 63 lower-case letters, digits, "
            "'-', '_' or '.', and begin and end with a letter or digit"
        )
    if name.startswith(STRING_NAME):
        raise InvalidProcessor(
            f"{name!r} cannot be the name of a payload processor: {STRING_NAME!r} begins the names of those in "
            "MM_PAYLOAD_PROCESSORS"
        )
    return name
