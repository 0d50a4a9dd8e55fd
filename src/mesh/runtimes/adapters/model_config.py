"""Triton's ``config.pbtxt``, rewritten field by field; pure.

The file is protobuf text. It is not parsed into a message: a message type of our own, or one of some release of
Triton, would drop what newer releases add. Instead the text is split into its top-level fields; those that must
change are cut out and new ones appended. Everything else stays as it is, comments included.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import grpc

from mesh.runtimes.adapters.schema import Schema, Tensor
from mesh.runtimes.interface import RuntimeFailure

_TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<open>[{\[<])
      | (?P<close>[}\]>])
      | (?P<mark>[:,;])
      | (?P<word>[A-Za-z0-9_.+\-/]+)""",
    re.VERBOSE,
)
_PAIRS = {"{": "}", "[": "]", "<": ">"}
_DATA_TYPES = {"BYTES": "TYPE_STRING"}

CONFLICT = (
    "Conflicting model configuration: If model has schema and config.pbtxt with max_batch_size > 0, then the "
    "first dimension of all inputs and outputs must have size -1."
)
"""Clients match on it."""


@dataclass(frozen=True, slots=True)
class _Field:
    """A top-level field: its name, where it is in the text, and its value where that is one word."""

    name: str
    start: int
    end: int
    word: str


def rewrite_config(config: str, schema: Schema | None) -> str:
    """Adapts a model's own configuration to the name and schema it gets.

    The name is taken out, so that Triton takes that of the directory. What the schema tells replaces ``input``
    and ``output``; where requests are batched, without the batch's dimension, as Triton wants it.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT, the text is none of protobuf, or contradicts the schema.
    """
    fields = _split(config)
    batched = any(field.name == "max_batch_size" and _number(field) > 0 for field in fields)
    gone = {"name"}
    added = ""
    told = schema or Schema()
    for name, tensors in (("input", told.inputs), ("output", told.outputs)):
        if tensors is not None:
            gone.add(name)
            added += _render(name, [_without_batch(tensor) if batched else tensor for tensor in tensors])
    kept = _without(config, [field for field in fields if field.name in gone])
    return f"{kept.rstrip()}\n{added}" if added else kept


def generate_config(backend: str, schema: Schema) -> str:
    """Writes a configuration for a model that has none, but a schema.

    Args:
        backend: of Triton; empty to let Triton find out.
        schema: becomes inputs and outputs, as they are.
    """
    head = f"backend: {_quote(backend)}\n" if backend else ""
    return head + _render("input", schema.inputs or ()) + _render("output", schema.outputs or ())


def _split(text: str) -> list[_Field]:
    tokens = list(_tokens(text))
    fields = []
    at = 0
    while at < len(tokens):
        first = at
        if tokens[at].group() == "[":  # the name of an extension
            at = _skip_group(text, tokens, at)
        elif tokens[at].lastgroup == "word":
            at += 1
        else:
            raise _malformed(text, tokens[at].start(), f"unexpected {tokens[at].group()!r}")
        if at < len(tokens) and tokens[at].group() == ":":
            at += 1
        if at >= len(tokens):
            raise _malformed(text, len(text), "a field has no value")
        value = tokens[at]
        if value.lastgroup == "open":
            at = _skip_group(text, tokens, at)
        elif value.lastgroup == "string":
            while at < len(tokens) and tokens[at].lastgroup == "string":
                at += 1
        elif value.lastgroup == "word":
            at += 2 if value.group() in {"-", "+"} else 1
        else:
            raise _malformed(text, value.start(), f"unexpected {value.group()!r}")
        if at < len(tokens) and tokens[at].group() in {",", ";"}:
            at += 1
        end = tokens[min(at, len(tokens)) - 1].end()
        fields.append(_Field(tokens[first].group(), tokens[first].start(), end, value.group()))
    return fields


def _tokens(text: str) -> Iterable[re.Match[str]]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _malformed(text, at, f"unexpected {text[at]!r}")
        at = match.end()
        if match.lastgroup != "blank":
            yield match


def _skip_group(text: str, tokens: list[re.Match[str]], at: int) -> int:
    awaited = []
    start = tokens[at].start()
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token.lastgroup == "open":
            awaited.append(_PAIRS[token.group()])
        elif token.lastgroup == "close":
            if token.group() != awaited.pop():
                raise _malformed(text, token.start(), f"unexpected {token.group()!r}")
            if not awaited:
                return at
    raise _malformed(text, start, f"{text[start]!r} is never closed")


def _number(field: _Field) -> int:
    try:
        return int(field.word, 0)
    except ValueError:
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"config.pbtxt has {field.name} {field.word!r}, which is no number",
        ) from None


def _without(text: str, fields: Iterable[_Field]) -> str:
    kept = []
    at = 0
    for field in fields:
        kept.append(text[at : field.start])
        at = field.end
    kept.append(text[at:])
    return "".join(kept)


def _without_batch(tensor: Tensor) -> Tensor:
    if tensor.shape[:1] != (-1,):
        raise RuntimeFailure(grpc.StatusCode.INVALID_ARGUMENT, CONFLICT)
    return Tensor(tensor.name, tensor.datatype, tensor.shape[1:])


def _render(field: str, tensors: Iterable[Tensor]) -> str:
    return "".join(
        f"{field} {{\n"
        f"  name: {_quote(tensor.name)}\n"
        f"  data_type: {_DATA_TYPES.get(tensor.datatype, f'TYPE_{tensor.datatype}')}\n"
        f"  dims: [ {', '.join(str(size) for size in tensor.shape)} ]\n"
        "}\n"
        for tensor in tensors
    )


def _quote(text: str) -> str:
    return (
        '"'
        + "".join(
            chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03o}"
            for byte in text.encode("utf-8", "surrogatepass")
        )
        + '"'
    )


def _malformed(text: str, at: int, why: str) -> RuntimeFailure:
    line = text.count("\n", 0, at) + 1
    return RuntimeFailure(
        grpc.StatusCode.INVALID_ARGUMENT, f"config.pbtxt of the model is malformed at line {line}: {why}"
    )
