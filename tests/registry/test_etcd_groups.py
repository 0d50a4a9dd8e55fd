"""Writes that are gathered hold or fail each by itself."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.registry import Delete, LeaseGone, MemoryStore, Outcome, Put, StoreUnavailable
from mesh.registry.etcd_groups import MAX_KEYS, Groups


class _Slow:
    """A store that answers when told to, and counts what it was sent."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.sent: list[int] = []

    async def send(
        self, expected: Mapping[str, int], operations: Sequence[Put | Delete], timeout: float
    ) -> Outcome:
        self.sent.append(len(operations))
        await asyncio.sleep(0.001)
        return await self.store.transact(expected, operations, timeout=timeout)


async def test_many_at_once_take_few_transactions() -> None:
    slow = _Slow()
    groups = Groups(slow.send)
    outcomes = await asyncio.gather(
        *(groups.transact({f"k{n}": 0}, [Put(f"k{n}", b"v")], 5) for n in range(300))
    )
    assert all(outcome.committed for outcome in outcomes)
    assert len((await slow.store.list("k")).entries) == 300
    assert len(slow.sent) < 20
    assert max(slow.sent) <= MAX_KEYS


async def test_one_that_conflicts_fails_alone_and_learns_the_entry() -> None:
    slow = _Slow()
    await slow.store.put("k7", b"old")
    groups = Groups(slow.send)
    outcomes = await asyncio.gather(
        *(groups.transact({f"k{n}": 0}, [Put(f"k{n}", b"new")], 5) for n in range(20))
    )
    assert [n for n, outcome in enumerate(outcomes) if not outcome.committed] == [7]
    entry = outcomes[7].entries["k7"]
    assert entry is not None
    assert entry.value == b"old"


async def test_writes_of_one_key_keep_their_order() -> None:
    slow = _Slow()
    groups = Groups(slow.send)
    await asyncio.gather(*(groups.transact({}, [Put("k", str(n).encode())], 5) for n in range(50)))
    entry = await slow.store.get("k")
    assert entry is not None
    assert entry.value == b"49"


async def test_an_ended_lease_fails_only_its_own_write() -> None:
    slow = _Slow()
    groups = Groups(slow.send)
    results = await asyncio.gather(
        *(groups.transact({}, [Put(f"k{n}", b"v", 12_345 if n == 5 else 0)], 5) for n in range(20)),
        return_exceptions=True,
    )
    assert isinstance(results[5], LeaseGone)
    assert all(isinstance(result, Outcome) for n, result in enumerate(results) if n != 5)


async def test_what_waits_when_the_client_closes_is_refused() -> None:
    started = asyncio.Event()

    async def never(*_: object) -> Outcome:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    groups = Groups(never)
    calls = [asyncio.create_task(groups.transact({}, [Put(f"k{n}", b"v")], 5)) for n in range(5)]
    await started.wait()
    await asyncio.sleep(0)
    await groups.close()
    for call in calls[2:]:
        with pytest.raises(StoreUnavailable):
            await call
    for call in calls[:2]:
        call.cancel()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_counting_by_compare_and_swap_loses_nothing(steps: list[tuple[int, bool]]) -> None:
    async def run() -> None:
        slow = _Slow()
        groups = Groups(slow.send)

        async def add(key: str) -> None:
            while True:
                entry = await slow.store.get(key)
                value = int(entry.value) if entry else 0
                expected = {key: entry.mod_revision if entry else 0}
                if (await groups.transact(expected, [Put(key, str(value + 1).encode())], 5)).committed:
                    return

        await asyncio.gather(*(add(f"k{key}") for key, _ in steps))
        total = sum(int(entry.value) for entry in (await slow.store.list("k")).entries)
        assert total == len(steps)

    asyncio.run(run())
