"""The etcd client keeps its word over crashes, outages, lost members and expired tokens."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from mesh.registry import (
    Compacted,
    EtcdConnection,
    EtcdStore,
    Event,
    OutcomeUnknown,
    Put,
    Store,
    StoreDenied,
    StoreUnavailable,
    etcd_watch,
)
from tests.registry.worlds import Connect, eventually
from tests.servers.etcd import EtcdCluster, EtcdServer, RootUser
from tests.servers.fixtures import MakeEtcd
from tests.servers.tls import Certificates


class Collector:
    """Watches in the background and keeps what comes."""

    def __init__(self, store: Store, prefix: str, revision: int) -> None:
        self.events: list[Event] = []
        self.failure: Exception | None = None
        self.task = asyncio.create_task(self._run(store, prefix, revision))

    async def _run(self, store: Store, prefix: str, revision: int) -> None:
        try:
            async with aclosing(store.watch(prefix, revision)) as batches:
                async for batch in batches:
                    self.events.extend(batch.events)
        except Compacted as error:
            self.failure = error

    @property
    def keys(self) -> list[str]:
        return [event.key for event in self.events]

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def store(etcd: EtcdServer, connect: Connect) -> AsyncIterator[Store]:
    async with connect(etcd.kv_store) as opened:
        yield opened


async def put_all(store: Store, keys: list[str]) -> None:
    """Writes keys in order, each as often as it takes."""
    async with asyncio.timeout(60):
        for key in keys:
            while True:
                try:
                    await store.put(key, b"v" * 256)
                    break
                except OutcomeUnknown:
                    if await get_when_back(store, key):
                        break
                except StoreUnavailable:
                    await asyncio.sleep(0.05)


async def get_when_back(store: Store, key: str) -> bool:
    while True:
        with contextlib.suppress(StoreUnavailable):
            return await store.get(key) is not None


async def test_a_watch_misses_nothing_over_a_crash(etcd: EtcdServer, store: Store, connect: Connect) -> None:
    keys = [f"/p/{number:03d}" for number in range(300)]
    start = await store.put("/first", b"")
    watching = Collector(store, "/p/", start + 1)
    await put_all(store, keys[:100])
    await eventually(lambda: len(watching.events) == 100)
    etcd.restart()
    async with connect(etcd.kv_store) as other:
        await put_all(other, keys[100:])
    await eventually(lambda: len(watching.events) >= 300)
    assert watching.keys == keys
    await watching.close()


async def test_a_crash_while_catching_up_loses_and_repeats_nothing(
    etcd: EtcdServer, store: Store, connect: Connect
) -> None:
    total = 6_000
    start = await store.put("/first", b"")
    numbers = iter(range(total))

    # One client for each writer, so that each write is a revision of its own.
    async def write() -> None:
        async with connect(etcd.kv_store) as writer:
            for number in numbers:
                await writer.put(f"/p/{number:04d}", b"v" * 256)

    await asyncio.gather(*(write() for _ in range(16)))
    events: list[Event] = []
    async with asyncio.timeout(60), aclosing(store.watch("/p/", start + 1)) as batches:
        async for batch in batches:
            if batch.events and not events:
                assert len(batch.events) < total / 2
                etcd.restart()
            events.extend(batch.events)
            if len(events) >= total:
                break
    revisions = [event.revision for event in events]
    assert len(revisions) == total
    assert revisions == sorted(set(revisions))


async def test_compaction_while_disconnected_is_told(etcd: EtcdServer, store: Store) -> None:
    start = await store.put("/p/0", b"")
    watching = Collector(store, "/p/", start)
    await eventually(lambda: len(watching.events) == 1)
    etcd.kill()
    await asyncio.sleep(0.1)
    # These block the event loop, so that the watch cannot resume in between.
    etcd.start()
    for number in range(5):
        last = etcd.put("/p/0", str(number))
    etcd.compact(last)
    await eventually(lambda: watching.failure is not None)
    assert isinstance(watching.failure, Compacted)
    assert watching.failure.oldest == last
    assert len(watching.events) == 1


async def test_a_frozen_server_costs_the_deadline_and_no_more(etcd: EtcdServer, store: Store) -> None:
    await store.put("/a", b"1")
    etcd.pause()
    try:
        with pytest.raises(OutcomeUnknown, match="may or may not"):
            await store.put("/a", b"2", timeout=0.5)
        with pytest.raises(StoreUnavailable):
            await store.get("/a", timeout=0.5)
    finally:
        etcd.resume()
    await eventually_get(store, "/a")


async def eventually_get(store: Store, key: str) -> bytes:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(StoreUnavailable):
                entry = await store.get(key)
                assert entry is not None
                return entry.value


async def test_an_unreachable_server_is_named_with_the_reason(etcd: EtcdServer, connect: Connect) -> None:
    etcd.stop()
    async with connect(etcd.kv_store) as store:
        with pytest.raises(
            StoreUnavailable, match=rf"127\.0\.0\.1:{etcd.port}.*refused.*check the endpoints"
        ):
            await store.put("/a", b"", timeout=1)


async def test_goes_to_another_endpoint_where_one_is_dead(make_etcd: MakeEtcd, connect: Connect) -> None:
    live, dead = make_etcd(), make_etcd()
    dead.stop()
    for endpoints in ((live, dead), (dead, live)):
        async with connect("etcd:" + ",".join(server.endpoint for server in endpoints)) as store:
            assert await store.put("/a", b"") > 0
            assert await store.get("/a") is not None


async def test_a_cluster_serves_on_when_members_go_one_by_one(
    etcd_cluster: EtcdCluster, connect: Connect
) -> None:
    async with connect(etcd_cluster.kv_store) as store:
        start = await store.put("/first", b"")
        watching = Collector(store, "/p/", start + 1)
        lease = await store.grant(20)
        keys = []
        for number, member in enumerate(etcd_cluster.members):
            keys += [f"/p/{number}/{step}" for step in range(20)]
            await put_all(store, keys[-20:])
            member.kill()
            more = [f"/p/{number}/down-{step}" for step in range(20)]
            keys += more
            await put_all(store, more)
            member.start()
        await eventually(lambda: len(watching.events) >= len(keys))
        assert watching.keys == keys
        await store.keep_alive(lease)
        await watching.close()


async def test_keeps_its_rights_when_tokens_expire_and_after_a_restart(
    make_etcd: MakeEtcd, connect: Connect
) -> None:
    etcd = make_etcd(root_user=RootUser("secret", token_ttl=1))
    async with connect(etcd.kv_store) as store:
        start = await store.put("/p/0", b"")
        watching = Collector(store, "/p/", start)
        lease = await store.grant(30)
        await asyncio.sleep(2.5)
        await store.put("/p/1", b"")
        await store.keep_alive(lease)
        etcd.restart()
        await put_all(store, ["/p/2"])
        assert len((await store.list("/p/")).entries) == 3
        await store.keep_alive(lease)
        await eventually(lambda: watching.keys == ["/p/0", "/p/1", "/p/2"])
        await asyncio.sleep(2.5)
        late = Collector(store, "/p/", start)
        await eventually(lambda: len(late.events) == 3)
        await watching.close()
        await late.close()


async def test_a_wrong_password_is_refused_at_once(make_etcd: MakeEtcd, connect: Connect) -> None:
    etcd = make_etcd(root_user=RootUser("secret"))
    wrong = etcd.connection_file(password="guess")
    async with connect(f"etcd:{wrong}") as store:
        with pytest.raises(StoreDenied, match=r"check the user, its password"):
            await store.get("/a")
    async with connect(f"etcd:{etcd.endpoint}") as store:
        with pytest.raises(StoreDenied, match="userid"):
            await store.put("/a", b"")


async def test_a_user_without_rights_may_not_watch(make_etcd: MakeEtcd, connect: Connect) -> None:
    etcd = make_etcd(root_user=RootUser("secret"))
    etcd._call("auth/user/add", name="guest", password="guest")
    guest = etcd.connection_file(userid="guest", password="guest")
    async with connect(f"etcd:{guest}") as store:
        with pytest.raises(StoreDenied):
            await store.get("/a")
        with pytest.raises(StoreDenied, match="roles"):
            async with asyncio.timeout(20), aclosing(store.watch("/p/", 1)) as batches:
                await anext(batches)


async def test_speaks_tls_with_a_client_certificate(
    make_etcd: MakeEtcd, certificates: Certificates, connect: Connect
) -> None:
    etcd = make_etcd(certificates=certificates, require_client_certificate=True)
    async with connect(etcd.kv_store) as store:
        start = await store.put("/p/0", b"")
        watching = Collector(store, "/p/", start)
        await eventually(lambda: watching.keys == ["/p/0"])
        await watching.close()


async def test_tls_without_the_certificate_it_needs_says_so(
    make_etcd: MakeEtcd, certificates: Certificates, tmp_path: Path, connect: Connect
) -> None:
    etcd = make_etcd(certificates=certificates, require_client_certificate=True)
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({"endpoints": etcd.endpoint}))
    async with connect(f"etcd:{plain}") as store:
        with pytest.raises(StoreUnavailable, match="TLS settings"):
            await store.get("/a", timeout=1)


async def test_overrides_the_name_expected_in_the_certificate(
    make_etcd: MakeEtcd, certificates: Certificates
) -> None:
    etcd = make_etcd(certificates=certificates)
    good = EtcdConnection(
        (f"127.0.0.1:{etcd.port}",),
        tls=True,
        certificate=certificates.ca.read_bytes(),
        override_authority="localhost",
    )
    async with EtcdStore(good) as store:
        assert await store.put("/a", b"") > 0
    bad = EtcdConnection(
        (f"127.0.0.1:{etcd.port}",),
        tls=True,
        certificate=certificates.ca.read_bytes(),
        override_authority="elsewhere.example",
    )
    async with EtcdStore(bad) as store:
        with pytest.raises(StoreUnavailable):
            await store.get("/a", timeout=1)


async def test_the_root_prefix_goes_in_front_of_every_key_verbatim(
    etcd: EtcdServer, store: Store, connect: Connect
) -> None:
    async with connect(f"etcd:{etcd.endpoint};rootPrefix=mesh-é") as below:
        start = await below.put("/p/a", b"1")
        await store.put("mesh-é/p/b", b"2")
        await store.put("/p/c", b"3")
        assert [entry.key for entry in (await below.list("/p/")).entries] == ["/p/a", "/p/b"]
        assert [entry.key for entry in (await store.list("mesh-é")).entries] == ["mesh-é/p/a", "mesh-é/p/b"]
        watching = Collector(below, "/p/", start)
        await eventually(lambda: watching.keys == ["/p/a", "/p/b"])
        outcome = await below.transact({"/p/a": 0}, [Put("/p/a", b"")])
        assert list(outcome.entries) == ["/p/a"]
        await watching.close()


async def test_a_transaction_that_a_watch_gets_in_fragments_comes_as_one(
    etcd: EtcdServer, store: Store
) -> None:
    start = await store.put("/first", b"")
    for attempt in range(3):
        await store.transact({}, [Put(f"/p/{attempt}/{part}", bytes(110_000)) for part in range(12)])
    sizes = []
    async with asyncio.timeout(20), aclosing(store.watch("/p/", start + 1)) as batches:
        async for batch in batches:
            revisions = [event.revision for event in batch.events]
            sizes += [revisions.count(revision) for revision in sorted(set(revisions))]
            if sum(sizes) == 36:
                break
    assert sizes == [12, 12, 12]


async def test_a_foreign_key_that_is_no_text_is_listed_and_can_be_deleted(
    etcd: EtcdServer, store: Store
) -> None:
    from mesh.registry.etcd import EtcdStore as Concrete

    assert isinstance(store, Concrete)
    odd = b"/p/\xff\xfe".decode(errors="surrogateescape")
    await store.put(odd, b"1")
    [entry] = (await store.list("/p/")).entries
    await store.delete(entry.key)
    assert not (await store.list("/p/")).entries


async def test_closing_ends_what_is_under_way_with_a_reason(etcd: EtcdServer, connect: Connect) -> None:
    store = connect(etcd.kv_store)
    start = await store.put("/p/a", b"")
    watching = Collector(store, "/p/", start)
    await eventually(lambda: len(watching.events) == 1)
    etcd.pause()
    writing = asyncio.create_task(store.put("/p/b", b"", timeout=10))
    beating = asyncio.create_task(store.keep_alive(7, timeout=10))
    await asyncio.sleep(0.1)
    await store.close()
    results = await asyncio.gather(writing, beating, return_exceptions=True)
    etcd.resume()
    assert all(isinstance(result, StoreUnavailable) for result in results), results
    async with asyncio.timeout(10):
        await watching.task


async def test_closing_ends_the_wait_for_a_member(etcd: EtcdServer, connect: Connect) -> None:
    etcd.stop()
    store = connect(etcd.kv_store)
    reading = asyncio.create_task(store.get("/a", timeout=10))
    await asyncio.sleep(0.1)
    await store.close()
    [result] = await asyncio.gather(reading, return_exceptions=True)
    assert isinstance(result, StoreUnavailable)
    assert "closed" in str(result)


async def test_a_watch_of_a_frozen_server_goes_on_once_it_is_back(
    etcd: EtcdServer, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(etcd_watch, "ASK_SECONDS", 0.1)
    monkeypatch.setattr(etcd_watch, "SILENT_SECONDS", 0.5)
    start = await store.put("/p/0", b"")
    watching = Collector(store, "/p/", start)
    await eventually(lambda: watching.keys == ["/p/0"])
    etcd.pause()
    try:
        await eventually(lambda: "says nothing on a watch" in caplog.text)
    finally:
        etcd.resume()
    await put_all(store, ["/p/1"])
    await eventually(lambda: watching.keys == ["/p/0", "/p/1"])
    await watching.close()
