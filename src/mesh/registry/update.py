"""Changing records by compare-and-swap: read what the mirror holds, compute, write, and on conflict again."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

from mesh.registry.errors import OutcomeUnknown, RegistryError, StoreUnavailable
from mesh.registry.store import WRITE_TIMEOUT, Delete, Entry, Outcome, Put, Store

if TYPE_CHECKING:
    from mesh.registry.mirror import Mirror


class _Keep(Enum):
    KEEP = "keep"


KEEP: Final = _Keep.KEEP
"""What a change function returns to leave things as they are."""
Keep = Literal[_Keep.KEEP]

# Expecting a revision that no key ever has makes a transaction answer with the current entries.
_NEVER = -1


async def update_together(
    places: Sequence[tuple["Mirror[Any]", str]],
    change: Callable[[Sequence[Any]], Sequence[Any] | Keep],
    *,
    timeout: float = WRITE_TIMEOUT,
) -> Sequence[Any]:
    """Changes several records in one transaction, which holds only if none of them changed meanwhile.

    Args:
        places: mirrors of one store, each with the id of a record; no record twice.
        change: gets the current records in the order of `places`, None for absent, and returns the wanted
            ones, None to delete and `KEEP` to leave one as it is; or `KEEP` for all. It is called again with
            fresh records after a conflict, so it must be free of effects. What it raises ends the update, once
            the store has confirmed that the records were the current ones.
        timeout: seconds for all tries together.

    Returns:
        The records as they are now.

    Raises:
        StoreUnavailable, OutcomeUnknown, StoreDenied, StoreRefused: see `Store`.
        InvalidRecord: a stored value is no record.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    keys = [mirror.prefix + record_id for mirror, record_id in places]
    attempted: Mapping[str, bytes | None] = {}
    fresh = False
    while True:
        current = [mirror.checked(record_id) for mirror, record_id in places]
        expected = {
            key: mirror.revision(record_id) for (mirror, record_id), key in zip(places, keys, strict=True)
        }
        try:
            wanted = _resolve(current, change(current))
        except Exception:
            if fresh or not await _refresh(places, expected, deadline - loop.time()):
                raise
            fresh = True
            continue
        written = {
            key: None if after is None else mirror.codec.encode(after)
            for (mirror, _), key, before, after in zip(places, keys, current, wanted, strict=True)
            if after != before
        }
        if not written:
            if None not in current or fresh or not await _refresh(places, expected, deadline - loop.time()):
                return current
            fresh = True
            continue
        try:
            outcome = await places[0][0].store.transact(
                expected,
                [Delete(key) if value is None else Put(key, value) for key, value in written.items()],
                timeout=max(0.001, deadline - loop.time()),
            )
        except OutcomeUnknown as error:
            attempted = written
            outcome = await _read_back(places[0][0].store, keys, error, deadline - loop.time())
        if outcome.committed:
            for (mirror, record_id), key, record in zip(places, keys, wanted, strict=True):
                if key in written:
                    mirror.learn_written(record_id, record, outcome.revision)
            return wanted
        _learn(places, keys, outcome)
        if attempted and _holds(attempted, outcome.entries):
            return [mirror.checked(record_id) for mirror, record_id in places]
        fresh = True
        if loop.time() >= deadline:
            raise StoreUnavailable(
                f"{', '.join(keys)} kept changing for {timeout} s under an update, which gave up: try again"
            )


def _resolve(current: Sequence[Any], wanted: Sequence[Any] | Keep) -> Sequence[Any]:
    if wanted is KEEP:
        return current
    return [before if after is KEEP else after for before, after in zip(current, wanted, strict=True)]


async def _refresh(
    places: Sequence[tuple["Mirror[Any]", str]], expected: Mapping[str, int], remaining: float
) -> bool:
    """Asks the store whether the records are what the mirrors hold; takes in and tells what is not."""
    outcome = await places[0][0].store.transact(
        dict.fromkeys(expected, _NEVER), [], timeout=max(0.001, remaining)
    )
    _learn(places, list(expected), outcome)
    return any(
        (entry.mod_revision if (entry := outcome.entries[key]) else 0) != revision
        for key, revision in expected.items()
    )


def _learn(places: Sequence[tuple["Mirror[Any]", str]], keys: Sequence[str], outcome: Outcome) -> None:
    for (mirror, record_id), key in zip(places, keys, strict=True):
        mirror.learn(record_id, outcome.entries[key], outcome.revision)


async def _read_back(store: Store, keys: Sequence[str], unknown: OutcomeUnknown, remaining: float) -> Outcome:
    """Finds out what a write of unknown outcome has left behind."""
    if remaining <= 0:
        raise unknown
    try:
        found = await store.transact(dict.fromkeys(keys, _NEVER), [], timeout=remaining)
    except RegistryError:
        raise unknown from None
    return found


def _holds(attempted: Mapping[str, bytes | None], entries: Mapping[str, Entry | None]) -> bool:
    """Tells whether the store has what an earlier try of unknown outcome wrote."""
    return all(
        (entry.value if (entry := entries[key]) else None) == value for key, value in attempted.items()
    )
