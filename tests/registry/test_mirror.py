"""A mirror shows what the store has: soon, in order, and again after every trouble."""

import asyncio
import logging
from functools import partial

import pytest

from mesh.registry import (
    KEEP,
    MODELS,
    TEXT,
    Delete,
    InvalidRecord,
    Mirror,
    ModelRecord,
    Put,
    Store,
    StoreUnavailable,
    update_together,
)
from tests.registry.worlds import World, eventually

PREFIX = "/p/"


class Heard(list[tuple[str, str | None, str | None]]):
    """What a subscriber was told; holds that each change starts where the last one ended."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, str] = {}

    def __call__(self, record_id: str, before: str | None, after: str | None) -> None:
        assert self.state.get(record_id) == before
        self.append((record_id, before, after))
        if after is None:
            del self.state[record_id]
        else:
            self.state[record_id] = after


def append(more: str, record: str | None) -> str:
    return (record or "") + more


async def texts(store: Store, *, relist_every: float = 600.0) -> tuple[Mirror[str], Heard]:
    mirror = Mirror(store, PREFIX, TEXT, relist_every=relist_every)
    heard = Heard()
    mirror.subscribe(heard)
    mirror.start()
    await mirror.wait_ready(20)
    return mirror, heard


async def test_shows_what_was_there_and_what_comes(store: Store, world: World) -> None:
    await store.put("/p/a", b"1")
    await store.put("/q/a", b"elsewhere")
    mirror, heard = await texts(world.client())
    assert dict(mirror) == {"a": "1"}
    await store.put("/p/b", b"2")
    await store.put("/p/a", b"3")
    await store.delete("/p/b")
    await eventually(lambda: len(heard) == 4)
    assert heard == [("a", None, "1"), ("b", None, "2"), ("a", "1", "3"), ("b", "2", None)]
    assert (mirror.get("a"), mirror.get("b"), "b" in mirror, len(mirror)) == ("3", None, False, 1)
    assert mirror.lag < 20
    await mirror.close()


async def test_lists_more_than_a_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    page = store.page

    async def small_page(*args: object, **kwargs: object) -> object:
        return await page(*args, **{**kwargs, "limit": 7})  # type: ignore[arg-type]

    monkeypatch.setattr(store, "page", small_page)
    for number in range(30):
        await store.put(f"/p/{number}", str(number).encode())
    mirror, _ = await texts(store)
    assert dict(mirror) == {str(number): str(number) for number in range(30)}
    await mirror.close()


async def test_a_subscriber_can_start_with_what_is_there(store: Store) -> None:
    await store.put("/p/a", b"1")
    mirror, _ = await texts(store)
    late = Heard()
    end = mirror.subscribe(late, replay=True)
    await mirror.update("b", lambda _: "2")
    end()
    await mirror.update("c", lambda _: "3")
    assert late == [("a", None, "1"), ("b", None, "2")]
    await mirror.close()


async def test_a_failing_subscriber_harms_nobody(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    mirror = Mirror(store, PREFIX, TEXT)

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    heard = Heard()
    mirror.subscribe(fail)
    mirror.subscribe(heard)
    mirror.start()
    await mirror.wait_ready(10)
    await mirror.update("a", lambda _: "1")
    assert heard == [("a", None, "1")]
    assert "a subscriber failed at record 'a'" in caplog.text
    await mirror.close()


async def test_keeps_what_it_has_while_the_store_is_away(store: Store, world: World) -> None:
    mirror, _ = await texts(store)
    await mirror.update("a", lambda _: "1")
    world.stop()
    await asyncio.sleep(0.3)
    assert dict(mirror) == {"a": "1"}
    world.start()
    other = world.client()
    async with asyncio.timeout(20):
        while True:
            try:
                await other.put("/p/a", b"2")
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    await eventually(lambda: mirror.get("a") == "2")
    await mirror.close()


async def test_begins_as_soon_as_the_store_is_there(store: Store, world: World) -> None:
    await store.put("/p/a", b"1")
    world.stop()
    mirror = Mirror(world.client(), PREFIX, TEXT)
    mirror.start()
    with pytest.raises(TimeoutError, match=r"'/p/' is not there after 0.2 s: .+"):
        await mirror.wait_ready(0.2)
    assert not mirror.ready
    world.start()
    await mirror.wait_ready(20)
    assert dict(mirror) == {"a": "1"}
    await mirror.close()


async def test_lists_again_when_what_it_missed_is_compacted_away(
    store: Store, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mesh.registry.mirror")
    await store.put("/p/gone", b"1")
    await store.put("/p/a", b"1")
    mirror, heard = await texts(store)
    await asyncio.sleep(0.2)
    world.stop()
    await asyncio.sleep(0.2)
    world.start()
    world.apply(Delete("/p/gone"))
    for number in range(20):
        last = world.apply(Put("/p/a", str(number).encode()))
    world.compact(last)
    await eventually(lambda: dict(mirror) == {"a": "19"})
    assert sorted(heard[-2:]) == [("a", "1", "19"), ("gone", "1", None)]
    assert "lists again" in caplog.text
    await mirror.close()


async def test_follows_a_store_that_was_restored_from_a_backup(world: World, store: Store) -> None:
    await store.put("/p/kept", b"1")
    mirror, heard = await texts(store)
    for number in range(20):
        await store.put("/p/later", str(number).encode())
    await eventually(lambda: mirror.get("later") == "19")
    world.stop()
    world.forget_everything()
    world.start()
    world.apply(Put("/p/new", b"2"))
    await eventually(lambda: dict(mirror) == {"new": "2"})
    await mirror.update("newer", lambda _: "3")
    world.apply(Put("/p/newest", b"4"))
    await eventually(lambda: dict(mirror) == {"new": "2", "newer": "3", "newest": "4"})
    assert heard.state == dict(mirror)
    await mirror.close()


async def test_a_listing_repairs_what_the_watch_missed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, heard = await texts(store, relist_every=0.5)
    learn = mirror.learn
    monkeypatch.setattr(mirror, "learn", lambda *_: None)
    for record_id in ("a", "b"):
        await store.put(f"/p/{record_id}", b"1")
    await asyncio.sleep(0.1)
    assert dict(mirror) == {}
    monkeypatch.setattr(mirror, "learn", learn)
    await eventually(lambda: dict(mirror) == {"a": "1", "b": "1"})
    assert heard.state == dict(mirror)
    await mirror.close()


async def test_what_is_no_record_is_reported_once_and_left_out(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put("/p/bad", b"{")
    await store.put("/p/good", b'{"type":"x"}')
    mirror = Mirror(store, PREFIX, MODELS)
    mirror.start()
    await mirror.wait_ready(10)
    assert list(mirror) == ["good"]
    assert list(mirror.invalid) == ["bad"]
    assert caplog.text.count("/p/bad") == 1
    with pytest.raises(InvalidRecord, match="/p/bad"):
        await mirror.update("bad", lambda _: ModelRecord(type="y"))
    await store.put("/p/bad", b'{"type":"z"}')
    await eventually(lambda: "bad" in mirror)
    assert not mirror.invalid
    await mirror.close()


async def test_an_update_shows_at_once_and_never_goes_back(store: Store) -> None:
    mirror, heard = await texts(store)
    for number in range(50):
        await mirror.update("a", partial(append, f"{number} "))
        assert mirror["a"].split()[-1] == str(number)
    assert await mirror.update("a", lambda _: None) is None
    assert "a" not in mirror
    marker = await store.put("/p/z", b"end")
    await eventually(lambda: mirror.revision("z") == marker)
    assert "a" not in mirror
    assert len(heard) == 52
    await mirror.close()


async def test_an_update_that_wants_nothing_changed_writes_nothing(store: Store) -> None:
    mirror, _ = await texts(store)
    await mirror.update("a", lambda _: "1")
    revision = mirror.revision("a")
    assert await mirror.update("a", lambda _: KEEP) == "1"
    assert await mirror.update("a", lambda record: record) == "1"
    assert await mirror.update("b", lambda _: KEEP) is None
    assert (await store.read("/p/a"))[1] == revision
    await mirror.close()


async def test_an_update_raises_what_the_change_raises(store: Store, world: World) -> None:
    mirror = Mirror(store, PREFIX, TEXT)
    await world.client().put("/p/a", b"1")

    def must_exist(record: str | None) -> str:
        if record is None:
            raise LookupError("absent")
        return record + "2"

    # The mirror has not even begun: the store's word counts, not the mirror's.
    assert await mirror.update("a", must_exist) == "12"
    with pytest.raises(LookupError, match="absent"):
        await mirror.update("b", must_exist)


async def test_fetch_reads_the_store_itself(store: Store, world: World) -> None:
    mirror = Mirror(store, PREFIX, TEXT)
    await world.client().put("/p/a", b"1")
    assert await mirror.fetch("a") == "1"
    assert mirror.get("a") == "1"
    await world.client().delete("/p/a")
    assert await mirror.fetch("a") is None
    assert mirror.get("a") is None


async def test_twenty_writers_lose_no_update(world: World) -> None:
    mirrors = [Mirror(world.client(), PREFIX, TEXT) for _ in range(4)]
    for mirror in mirrors:
        mirror.start()
        await mirror.wait_ready(10)

    async def add(writer: int) -> None:
        for step in range(5):
            await mirrors[writer % 4].update("a", partial(append, f"{writer}.{step} "), timeout=60)

    await asyncio.gather(*(add(writer) for writer in range(20)))
    everything = sorted(f"{writer}.{step}" for writer in range(20) for step in range(5))
    await eventually(lambda: all(sorted(mirror["a"].split()) == everything for mirror in mirrors))
    for mirror in mirrors:
        await mirror.close()


async def test_several_records_change_together_or_not_at_all(store: Store, world: World) -> None:
    accounts, log = Mirror(store, "/p/", TEXT), Mirror(store, "/log/", TEXT)
    stale = Mirror(world.client(), "/p/", TEXT)
    await accounts.update("a", lambda _: "100")
    await accounts.update("b", lambda _: "0")
    await stale.fetch("a")
    await stale.fetch("b")

    async def move(mirror: Mirror[str], amount: int) -> None:
        await update_together(
            [(mirror, "a"), (mirror, "b"), (log, str(amount))],
            lambda now: [str(int(now[0]) - amount), str(int(now[1]) + amount), "done"],
            timeout=30,
        )

    await move(accounts, 1)
    await asyncio.gather(*(move((accounts, stale)[amount % 2], amount) for amount in range(2, 10)))
    assert [await accounts.fetch("a"), await accounts.fetch("b")] == ["55", "45"]
    assert len((await store.list("/log/")).entries) == 9

    def too_much(now: object) -> object:
        raise ValueError("too much")

    with pytest.raises(ValueError, match="too much"):
        await update_together([(accounts, "a"), (accounts, "b")], too_much)  # type: ignore[arg-type]
    assert await update_together([(accounts, "a"), (accounts, "b")], lambda _: KEEP) == ["55", "45"]


async def test_gives_up_with_a_reason_where_a_record_keeps_changing(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, _ = await texts(store)
    transact = store.transact
    rival = world.client()

    async def rivalled(*args: object, **kwargs: object) -> object:
        await rival.put("/p/a", str(kwargs).encode())
        return await transact(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "transact", rivalled)
    with pytest.raises(StoreUnavailable):
        await mirror.update("a", lambda record: f"{record}x", timeout=0.2)
    await mirror.close()
