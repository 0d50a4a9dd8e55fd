"""Whether an object is what it is to be."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mesh.controller.quantities import InvalidQuantity, parse_quantity


def covers(live: Any, wanted: Any) -> bool:
    """Whether an object has all that it is to have; what it has besides, defaults and fields of others, does not count.

    Quantities that mean the same are the same, since the API server writes them in its own way.
    """
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            covers(live.get(name), value) or _is_nothing(live.get(name), value)
            for name, value in wanted.items()
        )
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return (
            isinstance(live, Sequence)
            and len(live) == len(wanted)
            and all(covers(one, other) for one, other in zip(live, wanted, strict=True))
        )
    if live == wanted:
        return True
    if isinstance(live, str) and isinstance(wanted, str):
        return _same_quantity(live, wanted)
    return False


def fingerprint(value: Any) -> str:
    """A short text that changes with a value of JSON."""
    written = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def _is_nothing(live: Any, wanted: Any) -> bool:
    # The server leaves out what is empty.
    return live is None and (wanted is None or wanted == "" or wanted is False or wanted in ({}, []))


def _same_quantity(one: str, other: str) -> bool:
    try:
        return parse_quantity(one) == parse_quantity(other)
    except InvalidQuantity:
        return False
