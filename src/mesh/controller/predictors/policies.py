"""Policies of copies that a resource's annotations ask for."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mesh.controller.predictors.predictor import InvalidSpec
from mesh.controller.quantities import parse_quantity
from mesh.placement import CopyPolicy, InvalidPolicy

#: What an annotation of ours begins with.
PREFIX = "modelmesh.serving.kserve.io/"

_DURATION = re.compile(r"(\d+)(ms|s|m|h|d)")
_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def policy_of(annotations: Mapping[str, str]) -> CopyPolicy:
    """The policy that annotations ask for.

    Raises:
        InvalidSpec: an annotation cannot be read, is out of range, or contradicts another.
    """
    members: dict[str, Any] = {}
    for name, (member, read) in _ANNOTATIONS.items():
        value = annotations.get(PREFIX + name)
        if value is None:
            continue
        try:
            members[member] = read(value.strip())
        except ValueError as problem:
            raise InvalidSpec(f'annotation {PREFIX}{name} is "{value}": {problem}') from problem
    policy = CopyPolicy(**members)
    try:
        policy.check()
    except InvalidPolicy as problem:
        raise InvalidSpec(f"annotations {PREFIX}*: {problem}") from problem
    return policy


def _whole(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError("it must be a whole number") from None


def _yes_or_no(value: str) -> bool:
    if value not in {"true", "false"}:
        raise ValueError('it must be "true" or "false"')
    return value == "true"


def _milliseconds(value: str) -> int:
    found = _DURATION.fullmatch(value)
    if found is None:
        raise ValueError('it must be a duration such as "30m" or "12h"')
    return int(found.group(1)) * _MILLISECONDS[found.group(2)]


def _bytes(value: str) -> int:
    return int(parse_quantity(value))


_ANNOTATIONS: dict[str, tuple[str, Callable[[str], int | bool]]] = {
    "min-copies": ("min_copies", _whole),
    "max-copies": ("max_copies", _whole),
    "pinned": ("pinned", _yes_or_no),
    "priority": ("priority", _whole),
    "idle-ttl": ("idle_ttl_ms", _milliseconds),
    "size": ("declared_size_bytes", _bytes),
}
