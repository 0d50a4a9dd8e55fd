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
            fresh records after a conflict, so it must be free of effects; what it raises ends the update.
        timeout: seconds for all tries together.

    Returns:
        The records as they are now.

    Raises:
        StoreUnavailable, OutcomeUnknown, StoreDenied, StoreRefused: see `Store`.
        InvalidRecord: a stored value is no record.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    store = places[0][0].store
    keys = [mirror.prefix + record_id for mirror, record_id in places]
    attempted: Mapping[str, bytes | None] = {}
    while True:
        current = [mirror.checked(record_id) for mirror, record_id in places]
        wanted = change(current)
        if wanted is KEEP:
            return current
        written: dict[str, bytes | None] = {}
        for (mirror, _), key, before, after in zip(places, keys, current, wanted, strict=True):
            if after is not KEEP and after != before:
                written[key] = None if after is None else mirror.codec.encode(after)
        if not written:
            return current
        expected = {
            key: mirror.revision(record_id) for (mirror, record_id), key in zip(places, keys, strict=True)
        }
        try:
            outcome = await store.transact(
                expected,
                [Delete(key) if value is None else Put(key, value) for key, value in written.items()],
                timeout=max(0.001, deadline - loop.time()),
            )
        except OutcomeUnknown as error:
            attempted = written
            outcome = await _read_back(store, keys, error, deadline - loop.time())
        if outcome.committed or (attempted and _holds(attempted, outcome.entries)):
            records = [
                before if after is KEEP else after for before, after in zip(current, wanted, strict=True)
            ]
            if outcome.committed:
                for (mirror, record_id), key, record in zip(places, keys, records, strict=True):
                    if key in written:
                        mirror.learn_written(record_id, record, outcome.revision)
                return records
            _learn(places, keys, outcome)
            return [mirror.checked(record_id) for mirror, record_id in places]
        _learn(places, keys, outcome)
        if loop.time() >= deadline:
            raise StoreUnavailable(
                f"{', '.join(keys)} kept changing for {timeout} s under an update, which gave up: try again"
            )


def _learn(places: Sequence[tuple["Mirror[Any]", str]], keys: Sequence[str], outcome: Outcome) -> None:
    for (mirror, record_id), key in zip(places, keys, strict=True):
        mirror.learn(record_id, outcome.entries[key], outcome.revision)


async def _read_back(store: Store, keys: Sequence[str], unknown: OutcomeUnknown, remaining: float) -> Outcome:
    """Finds out what a write of unknown outcome has left behind."""
    if remaining <= 0:
        raise unknown
    try:
        found = await store.transact(dict.fromkeys(keys, -1), [], timeout=remaining)
    except RegistryError:
        raise unknown from None
    return found


def _holds(attempted: Mapping[str, bytes | None], entries: Mapping[str, Entry | None]) -> bool:
    """Tells whether the store has what an earlier try of unknown outcome wrote."""
    return all(
        (entry.value if (entry := entries[key]) else None) == value for key, value in attempted.items()
    )
