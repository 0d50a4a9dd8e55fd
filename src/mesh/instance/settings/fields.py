"""Typed fields that are read from environment variables, and how their text is understood.

Each field tells its variable, unit and meaning in its metadata, so that one list serves reading, checking and
``mesh serve --help``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class SettingError(ValueError):
    """A setting's value cannot be used. The message names the variable, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """One line of ``mesh serve --help``."""

    name: str
    default: str
    meaning: str


def setting(
    names: str,
    parse: Callable[[str], object],
    meaning: str,
    *,
    default: T,
) -> T:
    """A field read from the first of ``names`` (separated by spaces; later ones are older names) that is set."""
    # dataclasses.field is typed as returning the field's type, which is what makes annotations work.
    return field(
        default=default, metadata={"names": tuple(names.split()), "parse": parse, "meaning": meaning}
    )


def group(kind: type[T]) -> T:
    """A field that is a dataclass of settings itself, with all its defaults where nothing is set."""
    return field(default_factory=kind, metadata={"group": kind})


def settings_of(kind: type[Any]) -> Iterator[Field[Any]]:
    """Every setting of a dataclass, those of its groups where the groups stand."""
    for spec in fields(kind):
        if (inner := spec.metadata.get("group")) is not None:
            yield from settings_of(inner)
        else:
            yield spec


def read(kind: type[Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Reads what is set of a dataclass of settings.

    Returns: values by field; a group's is complete.

    Raises:
        SettingError: a value is not of its type or out of range.
    """
    values: dict[str, Any] = {}
    for spec in fields(kind):
        if (inner := spec.metadata.get("group")) is not None:
            values[spec.name] = inner(**read(inner, environment))
            continue
        for name in spec.metadata["names"]:
            if name not in environment:
                continue
            try:
                values[spec.name] = spec.metadata["parse"](environment[name])
            except (ValueError, TypeError, OSError) as error:
                raise SettingError(
                    f"{name}={environment[name]!r}: {error} ({spec.metadata['meaning']})"
                ) from None
            break
    return values


def text(value: str) -> str:
    """Any text."""
    return value


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number of at least ``least`` and at most ``most``."""

    def parse(value: str) -> int:
        number = int(value)
        if number < least or (most is not None and number > most):
            bounds = f"at least {least}" if most is None else f"{least} to {most}"
            raise ValueError(f"must be {bounds}")
        return number

    return parse


def port_number(value: str) -> int:
    """A port, 0 for any that is free."""
    return integer(0, 65_535)(value)


def port_number_or_none(value: str) -> int | None:
    """A port, or None for ``NONE``."""
    return None if value.upper() == "NONE" else port_number(value)


def boolean(value: str) -> bool:
    """``true`` or ``false``, ``1`` or ``0``, ``yes`` or ``no``; false where empty."""
    if value.lower() in {"true", "1", "yes"}:
        return True
    if value.lower() in {"false", "0", "no", ""}:
        return False
    raise ValueError("must be true or false")


def one_of(kind: type[E]) -> Callable[[str], E]:
    """One of an enumeration's values."""

    def parse(value: str) -> E:
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"must be {' or '.join(member.value for member in kind)}") from None

    return parse


def name_set(value: str) -> tuple[str, ...]:
    """Names separated by commas, each once and in order."""
    return tuple(sorted({label.strip() for label in value.split(",") if label.strip()}))
