"""A session's keys are there while it lives, and come back when they were lost."""

import asyncio

import pytest

from mesh.registry import Session, SessionState, Store, StoreRefused, StoreUnavailable, open_store
from tests.registry.worlds import World, eventually
from tests.servers.etcd import EtcdServer

LOST, LIVE = SessionState.LOST, SessionState.LIVE


async def keys_of(store: Store) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.list("/s/")).entries}


async def start(store: Store, **arguments: float) -> tuple[Session, list[SessionState]]:
    session = Session(store, **arguments)
    states: list[SessionState] = []
    session.subscribe(states.append)
    session.start()
    await session.wait_live(10)
    return session, states


async def test_keys_end_with_the_session(store: Store, world: World) -> None:
    session, states = await start(store)
    await session.put("/s/a", b"1")
    await session.put("/s/b", b"1")
    await session.put("/s/a", b"2")
    await session.delete("/s/b")
    other = world.client()
    entry = await other.get("/s/a")
    assert entry is not None
    assert (entry.value, entry.lease) == (b"2", session.lease)
    assert await keys_of(other) == {"/s/a": b"2"}
    await session.close()
    assert await keys_of(other) == {}
    assert states == [LIVE, LOST]


async def test_a_lost_lease_is_told_and_made_anew_with_its_keys(store: Store, world: World) -> None:
    session, states = await start(store, keep_alive_every=0.1)
    await session.put("/s/a", b"1")
    await session.put("/s/b", b"2")
    await world.expire(session.lease)
    await eventually(lambda: states == [LIVE, LOST, LIVE])
    assert await keys_of(store) == {"/s/a": b"1", "/s/b": b"2"}
    await session.close()


async def test_a_key_that_somebody_deleted_is_restored(store: Store) -> None:
    session, _ = await start(store)
    await session.put("/s/a", b"1")
    await store.delete("/s/a")
    session.restore("/s/a")
    async with asyncio.timeout(10):
        while await keys_of(store) != {"/s/a": b"1"}:
            await asyncio.sleep(0.01)
    await session.close()


async def test_what_could_not_be_written_is_written_later(store: Store, world: World) -> None:
    session, states = await start(store, ttl=2, keep_alive_every=0.1)
    await session.put("/s/a", b"1")
    world.stop()
    with pytest.raises(StoreUnavailable):
        await session.put("/s/a", b"2", timeout=0.3)
    await eventually(lambda: states[-1] is LOST)
    with pytest.raises(StoreUnavailable, match="waits until the session is live"):
        await session.put("/s/b", b"3", timeout=0.2)
    world.start()
    await eventually(lambda: states[-1] is LIVE)
    assert await keys_of(store) == {"/s/a": b"2", "/s/b": b"3"}
    await session.close()


async def test_a_short_outage_is_no_loss(store: Store, world: World) -> None:
    session, states = await start(store, ttl=20, keep_alive_every=0.1)
    await session.put("/s/a", b"1")
    lease = session.lease
    world.stop()
    await asyncio.sleep(0.5)
    world.start()
    await session.put("/s/a", b"2", timeout=10)
    assert (states, session.lease) == ([LIVE], lease)
    await session.close()


async def test_what_the_store_refuses_does_not_end_the_session(store: Store) -> None:
    session, states = await start(store, keep_alive_every=0.05)
    with pytest.raises(StoreRefused):
        await session.put("/s/a", bytes(2_000_000))
    await session.put("/s/b", b"1")
    await asyncio.sleep(0.2)
    assert states == [LIVE]
    assert await keys_of(store) == {"/s/b": b"1"}
    await session.close()


async def test_says_what_stands_against_the_first_lease(store: Store, world: World) -> None:
    world.stop()
    session = Session(store)
    session.start()
    with pytest.raises(TimeoutError, match=r"no session after 0.3 s: .+"):
        await session.wait_live(0.3)
    world.start()
    await session.wait_live(20)
    await session.close()


async def test_etcd_ends_a_silent_session(etcd: EtcdServer) -> None:
    async with open_store(etcd.kv_store) as store:
        lease = await store.grant(1)
        await store.put("/s/a", b"1", lease=lease)
        async with asyncio.timeout(20):
            while await keys_of(store):
                await asyncio.sleep(0.1)
