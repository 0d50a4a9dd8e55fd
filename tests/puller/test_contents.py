"""What is fetched once is not fetched again while its content is here."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.puller import Puller
from tests.puller.conftest import MakePuller
from tests.puller.faulty_s3 import FaultyS3
from tests.puller.test_http import tree
from tests.puller.test_s3_faults import key_for

MODEL = {"m/1/a": b"aaaa", "m/1/b/c": b"bb"}


@pytest.fixture
def store() -> Iterator[FaultyS3]:
    with FaultyS3().running() as store:
        store.objects = dict(MODEL)
        yield store


def fetched(store: FaultyS3) -> list[str]:
    """Objects that were sent since the last look."""
    keys = [key for method, key in store.requests if method == "GET" and key != "?list"]
    store.requests.clear()
    return sorted(keys)


async def pull(puller: Puller, model_id: str, store: FaultyS3) -> None:
    pulled = await puller.pull(model_id, "m", key_for(store))
    assert tree(pulled.path) == {key.removeprefix("m/"): value for key, value in store.objects.items()}
    assert pulled.disk_size_bytes == sum(len(value) for value in store.objects.values())
    assert json.loads(pulled.key)["disk_size_bytes"] == pulled.disk_size_bytes


async def test_models_with_one_content_fetch_it_once(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3
) -> None:
    puller = make_puller()
    await puller.purge()
    await pull(puller, "one", store)
    assert fetched(store) == sorted(MODEL)
    await pull(puller, "two", store)
    assert fetched(store) == []
    await puller.delete("one")
    assert tree(str(tmp_path / "models" / "two" / "m")) == {"1/a": b"aaaa", "1/b/c": b"bb"}
    await pull(puller, "two", store)
    await pull(puller, "three", store)
    assert fetched(store) == []


async def test_nothing_is_kept_for_nobody(tmp_path: Path, make_puller: MakePuller, store: FaultyS3) -> None:
    puller = make_puller()
    await puller.purge()
    await pull(puller, "one", store)
    await puller.delete("one")
    assert [path for path in (tmp_path / "models").rglob("*") if path.is_file()] == []
    await pull(puller, "one", store)
    assert fetched(store) == sorted([*MODEL, *MODEL])


async def test_what_was_used_longest_ago_goes_first(make_puller: MakePuller, store: FaultyS3) -> None:
    puller = make_puller(max_idle_bytes=11)
    await puller.purge()
    for content in (b"1", b"2", b"3"):
        store.objects = {"m": content * 5}
        await puller.pull(f"model-{content!r}", "m", key_for(store))
    for content in (b"2", b"1", b"3"):
        await puller.delete(f"model-{content!r}")
    fetched(store)
    for content, sent in ((b"1", []), (b"3", []), (b"2", ["m"])):
        store.objects = {"m": content * 5}
        await puller.pull("again", "m", key_for(store))
        assert fetched(store) == sent


async def test_a_restart_costs_no_transfer(tmp_path: Path, make_puller: MakePuller, store: FaultyS3) -> None:
    first = make_puller(max_idle_bytes=1000)
    await first.purge()
    await pull(first, "one", store)
    await first.close()
    fetched(store)
    second = make_puller(max_idle_bytes=1000)
    assert await second.purge() == ["one"]
    await pull(second, "one", store)
    assert fetched(store) == []
    # One that keeps nothing removes it, too.
    third = make_puller()
    await third.purge()
    assert [path for path in (tmp_path / "models").rglob("*") if path.is_file()] == []


async def test_another_content_is_fetched(make_puller: MakePuller, store: FaultyS3) -> None:
    puller = make_puller(max_idle_bytes=1000)
    await puller.purge()
    await pull(puller, "one", store)
    store.objects = {"m/1/a": b"AAAA", "m/1/b/c": b"bb"}
    fetched(store)
    await pull(puller, "one", store)
    assert fetched(store) == sorted(MODEL)


async def test_a_damaged_content_is_not_used(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3
) -> None:
    puller = make_puller(max_idle_bytes=1000)
    await puller.purge()
    await pull(puller, "one", store)
    await puller.delete("one")
    fetched(store)
    [kept] = (tmp_path / "models").rglob("a")
    kept.write_bytes(b"aaa")
    await pull(puller, "one", store)
    assert fetched(store) == sorted(MODEL)


async def test_a_failed_pull_keeps_nothing(tmp_path: Path, make_puller: MakePuller, store: FaultyS3) -> None:
    puller = make_puller(max_idle_bytes=1000, attempts=1)
    await puller.purge()
    store.faults["m/1/b/c"] = ["403"]
    with pytest.raises(Exception, match="PERMISSION_DENIED"):
        await pull(puller, "one", store)
    assert [path for path in (tmp_path / "models").rglob("*") if path.is_file()] == []
