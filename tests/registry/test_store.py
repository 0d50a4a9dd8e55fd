"""What every store does alike."""

import asyncio
from contextlib import aclosing

import pytest

from mesh.registry import (
    Compacted,
    Delete,
    Event,
    LeaseGone,
    Put,
    Store,
    StoreRefused,
    StoreUnavailable,
)
from tests.registry.worlds import World


async def collect(store: Store, prefix: str, revision: int, count: int) -> list[Event]:
    """Watches until so many events have come."""
    events: list[Event] = []
    async with asyncio.timeout(30), aclosing(store.watch(prefix, revision)) as batches:
        async for batch in batches:
            events.extend(batch.events)
            if len(events) >= count:
                break
    return events


async def test_reads_what_was_written(store: Store) -> None:
    assert await store.get("/a") is None
    first = await store.put("/a", b"1")
    second = await store.put("/a", b"\x00\xff")
    entry = await store.get("/a")
    assert entry is not None
    assert (entry.key, entry.value) == ("/a", b"\x00\xff")
    assert (entry.create_revision, entry.mod_revision, entry.lease) == (first, second, 0)


@pytest.mark.parametrize("key", ["/p/ü ☃ %2F", "/p/\U0001f600/x", "/p/a\nb", "/p/"])
async def test_keys_are_any_text(store: Store, key: str) -> None:
    await store.put(key, key.encode())
    entry = await store.get(key)
    assert entry is not None
    assert entry.value == key.encode()
    assert [entry.key for entry in (await store.list("/p/")).entries] == [key]


async def test_a_delete_makes_absent_and_a_new_put_creates_anew(store: Store) -> None:
    await store.put("/a", b"1")
    await store.delete("/a")
    assert await store.get("/a") is None
    revision = await store.put("/a", b"2")
    entry = await store.get("/a")
    assert entry is not None
    assert entry.create_revision == revision


async def test_deleting_what_is_absent_changes_nothing(store: Store) -> None:
    before = await store.put("/a", b"1")
    assert await store.delete("/b") == before


async def test_lists_a_prefix_alone_in_order_of_bytes(store: Store) -> None:
    for key in ("/p/b", "/p/a", "/p", "/q/a", "/p0", "/p/\U0001f600", "/p/\uffff"):
        await store.put(key, b"")
    listing = await store.list("/p/")
    assert [entry.key for entry in listing.entries] == ["/p/a", "/p/b", "/p/\uffff", "/p/\U0001f600"]
    assert listing.revision == (await store.read("/p/a"))[1]


async def test_pages_show_one_revision_while_others_write(store: Store) -> None:
    for number in range(10):
        await store.put(f"/p/{number}", b"old")
    page = await store.page("/p/", limit=4)
    assert len(page.entries) == 4
    await store.put("/p/5", b"new")
    await store.delete("/p/6")
    await store.put("/p/55", b"new")
    entries = list(page.entries)
    while page.more:
        page = await store.page("/p/", after=entries[-1].key, revision=page.revision, limit=4)
        entries.extend(page.entries)
    assert [(entry.key, entry.value) for entry in entries] == [
        (f"/p/{number}", b"old") for number in range(10)
    ]


async def test_reading_a_compacted_revision_says_so(store: Store, world: World) -> None:
    first = await store.put("/a", b"1")
    last = await store.put("/a", b"2")
    world.compact(last)
    with pytest.raises(Compacted):
        await store.page("/", revision=first)


async def test_compare_and_swap_takes_one_of_two(store: Store) -> None:
    assert (await store.transact({"/a": 0}, [Put("/a", b"1")])).committed
    outcome = await store.transact({"/a": 0, "/b": 0}, [Put("/a", b"2"), Put("/b", b"2")])
    assert not outcome.committed
    entry = outcome.entries["/a"]
    assert entry is not None
    assert (entry.value, outcome.entries["/b"]) == (b"1", None)
    assert await store.get("/b") is None
    assert (await store.transact({"/a": entry.mod_revision}, [Delete("/a")])).committed
    assert await store.get("/a") is None


async def test_a_transaction_happens_at_one_revision(store: Store) -> None:
    start = await store.put("/p/c", b"0")
    outcome = await store.transact({}, [Put("/p/a", b"1"), Put("/p/b", b"1"), Delete("/p/c")])
    events = await collect(store, "/p/", start + 1, 3)
    assert {event.revision for event in events} == {outcome.revision}
    assert {event.key: event.entry and event.entry.value for event in events} == {
        "/p/a": b"1",
        "/p/b": b"1",
        "/p/c": None,
    }


async def test_refuses_what_is_too_large_or_contradictory(store: Store) -> None:
    with pytest.raises(StoreRefused):
        await store.put("/a", bytes(2_000_000))
    with pytest.raises(StoreRefused):
        await store.transact({}, [Put(f"/{number}", b"") for number in range(200)])
    with pytest.raises(StoreRefused):
        await store.transact({}, [Put("/a", b"1"), Put("/a", b"2")])


async def test_watches_from_the_past_into_the_future(store: Store) -> None:
    first = await store.put("/p/a", b"1")
    await store.put("/q/a", b"not watched")
    await store.put("/p/a", b"2")
    watching = asyncio.create_task(collect(store, "/p/", first, 4))
    await asyncio.sleep(0.05)
    await store.put("/p/b", b"3")
    await store.delete("/p/a")
    events = await watching
    assert [(event.key, event.entry and event.entry.value) for event in events] == [
        ("/p/a", b"1"),
        ("/p/a", b"2"),
        ("/p/b", b"3"),
        ("/p/a", None),
    ]
    assert [event.revision for event in events] == sorted(event.revision for event in events)


async def test_a_watch_from_a_compacted_revision_says_so(store: Store, world: World) -> None:
    first = await store.put("/p/a", b"1")
    last = await store.put("/p/a", b"2")
    world.compact(last)
    with pytest.raises(Compacted):
        await collect(store, "/p/", first, 1)


async def test_a_watch_tells_that_it_is_alive(store: Store) -> None:
    revision = await store.put("/p/a", b"1")
    async with asyncio.timeout(10), aclosing(store.watch("/p/", revision + 1)) as batches:
        batch = await anext(batches)
    assert not batch.events
    assert batch.revision >= revision


async def test_watches_run_side_by_side(store: Store) -> None:
    start = await store.put("/a/1", b"")
    watches = [asyncio.create_task(collect(store, f"/{name}/", start, 2)) for name in "aab"]
    for name in ("a/2", "b/1", "b/2"):
        await store.put(f"/{name}", b"")
    found = [[event.key for event in events] for events in await asyncio.gather(*watches)]
    assert found == [["/a/1", "/a/2"], ["/a/1", "/a/2"], ["/b/1", "/b/2"]]


async def test_a_watch_outlives_the_store_being_away(store: Store, world: World) -> None:
    start = await store.put("/p/0", b"")
    watching = asyncio.create_task(collect(store, "/p/", start + 1, 2))
    await store.put("/p/1", b"")
    world.stop()
    world.start()
    await put_when_back(store, "/p/2")
    assert [event.key for event in await watching] == ["/p/1", "/p/2"]


async def put_when_back(store: Store, key: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await store.put(key, b"")
                return
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def test_says_where_it_is_when_it_is_away(store: Store, world: World) -> None:
    await store.put("/a", b"")
    world.stop()
    with pytest.raises(StoreUnavailable, match=r"start it|check"):
        await store.get("/a", timeout=0.5)
    with pytest.raises(StoreUnavailable):
        await store.put("/a", b"", timeout=0.5)


async def test_keys_end_with_their_lease(store: Store) -> None:
    lease = await store.grant(10)
    await store.put("/s/a", b"1", lease=lease)
    await store.put("/s/b", b"1", lease=lease)
    start = await store.put("/s/b", b"2")
    await store.keep_alive(lease)
    await store.revoke(lease)
    await store.revoke(lease)
    assert [entry.key for entry in (await store.list("/s/")).entries] == ["/s/b"]
    assert [(event.key, event.entry) for event in await collect(store, "/s/", start + 1, 1)] == [
        ("/s/a", None)
    ]


async def test_a_lease_that_has_ended_says_so(store: Store) -> None:
    lease = await store.grant(10)
    await store.revoke(lease)
    with pytest.raises(LeaseGone):
        await store.keep_alive(lease)
    with pytest.raises(LeaseGone):
        await store.put("/a", b"", lease=lease)
    assert await store.get("/a") is None


async def test_a_closed_client_says_so(world: World) -> None:
    store = world.new_client()
    await store.put("/a", b"")
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get("/a")
