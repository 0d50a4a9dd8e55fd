"""What every place of storage may do to a pull: no bad byte is served, nothing is left, the reason is clear."""

import asyncio
import hashlib
import io
import json
import resource
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mesh.puller import Code, Puller, PullFailure
from tests.puller.conftest import MakePuller, names
from tests.puller.faulty_s3 import FaultyS3
from tests.puller.test_http import tree
from tests.puller.test_hub import COMMIT, publish
from tests.puller.test_hub import key_for as hub_key
from tests.puller.test_puller import settled
from tests.puller.web_server import WebServer

STORES = {
    "s3": {"bucket": "models", "access_key_id": "me", "secret_access_key": "hush-hush"},
    "gcs": {"bucket": "models"},
    "azure": {"container": "models", "account_name": "me"},
}
BIG = bytes(range(251)) * 4001


@pytest.fixture
def store() -> Iterator[FaultyS3]:
    with FaultyS3().running() as store:
        store.objects = {"m/big": BIG, "m/b/small": b"small", "m/c": b"", "m/d": b"d"}
        yield store


@pytest.fixture(params=STORES)
def key(request: pytest.FixtureRequest, store: FaultyS3) -> str:
    fields = STORES[request.param]
    return json.dumps({"storage_params": {"type": request.param, "endpoint_url": store.endpoint, **fields}})


async def check_whole(puller: Puller, store: FaultyS3, key: str) -> None:
    pulled = await puller.pull("m", "m", key)
    assert tree(pulled.path) == {key.removeprefix("m/"): value for key, value in store.objects.items()}


async def refusal(puller: Puller, key: str, path: str = "m") -> PullFailure:
    with pytest.raises(PullFailure) as raised:
        await puller.pull("m", path, key)
    assert "hush" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize(
    "faults",
    [
        {"?list": ["503", "500"], "m/big": ["503"], "m/b/small": ["500", "503"]},
        {"m/big": ["truncate", "503", "truncate"], "m/b/small": ["truncate"]},
        {"m/big": ["change"], "m/d": ["", "change"]},
        {"m/big": ["stall", "truncate"]},
    ],
    ids=["busy", "cut short", "changed", "silent"],
)
async def test_a_passing_fault_does_not_show(
    make_puller: MakePuller, store: FaultyS3, key: str, faults: dict[str, list[str]]
) -> None:
    store.faults.update(faults)
    await check_whole(make_puller(stall_timeout_s=0.5, piece_bytes=300_000), store, key)


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        ("503", {Code.UNAVAILABLE}),
        ("truncate", {Code.UNAVAILABLE}),
        ("change", {Code.ABORTED}),
        ("code:401:ExpiredToken", {Code.UNAUTHENTICATED}),
        ("403", {Code.PERMISSION_DENIED, Code.UNAUTHENTICATED}),
    ],
)
async def test_one_that_stays_fails_the_load_and_leaves_nothing(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3, key: str, fault: str, codes: set[Code]
) -> None:
    store.faults["m/big"] = [fault] * 100
    failure = await refusal(make_puller(attempts=2), key)
    assert failure.code in codes
    assert "'models'" in failure.message
    assert await settled(tmp_path / "models") == []
    # Nothing of it comes back once the store is well.
    store.faults.clear()
    await check_whole(make_puller(), store, key)


@pytest.mark.parametrize("kind", ["s3", "gcs"])
async def test_damage_on_the_way_is_found_by_the_tag(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3, kind: str
) -> None:
    """Tags of objects that were uploaded in one piece are their MD5."""
    store.tag = lambda content: hashlib.md5(content, usedforsecurity=False).hexdigest()
    key = json.dumps({"storage_params": {"type": kind, "endpoint_url": store.endpoint, **STORES[kind]}})
    store.faults["m/big"] = ["damage", "damage"]
    store.faults["m/b/small"] = ["damage"]
    await check_whole(make_puller(), store, key)
    store.faults["m/big"] = ["damage"] * 100
    failure = await refusal(make_puller(root=tmp_path / "other"), key)
    assert failure.code is Code.UNAVAILABLE
    assert "'m/big'" in failure.message
    assert "damaged" in failure.message
    assert await settled(tmp_path / "other") == []


async def test_tags_that_only_look_like_hashes_are_taken_as_tags(
    make_puller: MakePuller, store: FaultyS3
) -> None:
    """As those of objects that a key service has encrypted."""
    store.tag = lambda content: hashlib.md5(b"key" + content, usedforsecurity=False).hexdigest()
    key = json.dumps({"storage_params": {"type": "s3", "endpoint_url": store.endpoint, **STORES["s3"]}})
    puller = make_puller()
    await check_whole(puller, store, key)
    store.requests.clear()
    store.objects["m/d"] = b"another"
    await check_whole(puller, store, key)
    # Found out once: nothing is fetched twice any more.
    fetched = [name for method, name in store.requests if name != "?list"]
    assert sorted(fetched) == sorted(store.objects)


async def test_a_silent_store_holds_nobody_who_gives_up(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3, key: str
) -> None:
    store.faults["m/big"] = ["stall"]
    puller = make_puller()
    pulling = asyncio.create_task(puller.pull("m", "m", key))
    async with asyncio.timeout(20):  # the store stays silent for longer
        while ("GET", "m/big") not in store.requests:
            await asyncio.sleep(0.01)
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
    assert await settled(tmp_path / "models") == []
    store.hang_up.set()
    await check_whole(puller, store, key)


@contextmanager
def files_up_to(count: int) -> Iterator[None]:
    """No file may become larger, in this process, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", ["s3", "http"])
async def test_a_disk_that_takes_no_more_fails_the_load_and_is_cleared(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3, kind: str
) -> None:
    content = bytes(4 << 20)
    with WebServer().running() as web:
        store.objects["m/big"] = web.files["m"] = content
        place = {"s3": {"endpoint_url": store.endpoint, **STORES["s3"]}, "http": {"url": web.url}}[kind]
        key = json.dumps({"storage_params": {"type": kind, **place}})
        puller = make_puller()
        with files_up_to(1 << 20):
            failure = await refusal(puller, key)
        assert failure.code is Code.RESOURCE_EXHAUSTED
        assert await settled(tmp_path / "models") == []
        pulled = await puller.pull("m", "m", key)
        assert pulled.disk_size_bytes >= len(content)


async def test_the_hub_may_be_busy_and_cut_answers_short(make_puller: MakePuller) -> None:
    with WebServer().running() as hub:
        files = {"config.json": b"{}", "model.safetensors": BIG}
        publish(hub, "main", files)
        hub.faults["api/models/me/tiny/revision/main"] = ["503"]
        hub.faults[f"me/tiny/resolve/{COMMIT}/config.json"] = ["500"]
        hub.faults[f"me/tiny/resolve/{COMMIT}/model.safetensors"] = ["503", "truncate", "truncate"]
        pulled = await make_puller().pull("m", "hf://me/tiny", hub_key(hub))
        assert tree(pulled.path) == files


@pytest.mark.parametrize("fault", ["503", "truncate", "403"])
async def test_a_hub_that_stays_ill_fails_the_load_and_leaves_nothing(
    tmp_path: Path, make_puller: MakePuller, fault: str
) -> None:
    with WebServer().running() as hub:
        publish(hub, "main", {"config.json": b"{}", "model.safetensors": BIG})
        hub.faults[f"me/tiny/resolve/{COMMIT}/model.safetensors"] = [fault] * 100
        failure = await refusal(make_puller(attempts=2), hub_key(hub, token="hush-hush"), "hf://me/tiny")
    assert failure.code is (Code.PERMISSION_DENIED if fault == "403" else Code.UNAVAILABLE)
    assert await settled(tmp_path / "models") == []


async def test_a_registry_of_images_may_be_busy_and_cut_layers_short(
    tmp_path: Path, make_puller: MakePuller
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("models/weights")
        entry.size = len(BIG)
        tar.addfile(entry, io.BytesIO(BIG))
    layer = buffer.getvalue()
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    manifest = {"schemaVersion": 2, "layers": [{"digest": digest, "size": len(layer), "mediaType": "tar"}]}
    with WebServer().running() as web:
        web.files = {"v2/m/manifests/1": json.dumps(manifest).encode(), f"v2/m/blobs/{digest}": layer}
        path = f"oci://{web.url.removeprefix('http://')}/m:1"
        web.faults["v2/m/manifests/1"] = ["503"]
        web.faults[f"v2/m/blobs/{digest}"] = ["503", "truncate"]
        key = '{"storage_params":{"insecure":"true"}}'
        pulled = await make_puller().pull("m", path, key)
        assert tree(pulled.path) == {"weights": BIG}
        web.faults[f"v2/m/blobs/{digest}"] = ["truncate"] * 100
        failure = await refusal(make_puller(root=tmp_path / "other", attempts=2), key, path)
    assert failure.code is Code.UNAVAILABLE
    assert [name for name in names(tmp_path / "other") if not name.startswith(".")] == []
