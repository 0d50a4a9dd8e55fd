"""Reads the members of a processor's configuration into a type of its own."""

import importlib
from typing import TypeVar

import msgspec

from mesh.payload.processor import InvalidProcessor, Options

Members = TypeVar("Members", bound=msgspec.Struct)


def read_members(options: Options, kind: type[Members]) -> Members:
    """Reads what a processor is configured with beside its URI.

    Args:
        options: of the processor.
        kind: with the members' names, types, bounds and defaults.

    Raises:
        InvalidProcessor: a member is not known, or not of its type or within its bounds.
    """
    known = kind.__struct_fields__
    if unknown := [name for name in options.members if name not in known]:
        raise InvalidProcessor(
            f"payload processor {options.name!r}: options.{unknown[0]} is not known; there are {', '.join(known)}"
        )
    try:
        return msgspec.convert(dict(options.members), kind)
    except msgspec.ValidationError as error:
        message = str(error).replace("`$.", "`options.")
        raise InvalidProcessor(f"payload processor {options.name!r}: {message}") from None


def require(options: Options, module: str, extra: str, what: str) -> None:
    """Looks whether a library is installed that not everybody has.

    Args:
        options: of the processor that needs it.
        module: of the library.
        extra: of this project that brings it.
        what: it is needed for.

    Raises:
        InvalidProcessor: it is not; the message names the extra.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise InvalidProcessor(
            f"payload processor {options.name!r}: {what} needs {module} ({error}); "
            f"install it with pip install 'model-mesh[{extra}]'"
        ) from None
