"""What a pull does when the object store misbehaves: no bad bytes, nothing left behind, a clear reason."""

import asyncio
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.puller import Code, Puller, PullFailure
from tests.puller.conftest import MakePuller, names
from tests.puller.faulty_s3 import FaultyS3
from tests.puller.test_puller import settled

SECRET = "hush-hush"


@pytest.fixture
def store() -> Iterator[FaultyS3]:
    with FaultyS3().running() as store:
        yield store


def key_for(store: FaultyS3, **more: str) -> str:
    params = {
        "type": "s3",
        "endpoint_url": store.endpoint,
        "region": "eu-nowhere-1",
        "bucket": "models",
        "access_key_id": "AKIA-me",
        "secret_access_key": SECRET,
        **more,
    }
    return json.dumps({"storage_params": params})


async def refusal(puller: Puller, store: FaultyS3, path: str, **more: str) -> PullFailure:
    with pytest.raises(PullFailure) as raised:
        await puller.pull("m", path, key_for(store, **more))
    # However it is logged: the store's answers repeat what was signed.
    logged = "".join(traceback.format_exception(raised.value))
    assert SECRET not in logged
    assert "AWS4-HMAC" not in logged
    return raised.value


async def test_a_body_cut_short_is_completed(make_puller: MakePuller, store: FaultyS3) -> None:
    store.objects["m/big"] = bytes(range(256)) * 4096
    store.faults["m/big"] = ["truncate", "truncate"]
    pulled = await make_puller().pull("m", "m", key_for(store))
    assert Path(pulled.path, "big").read_bytes() == store.objects["m/big"]


async def test_a_body_that_cannot_be_continued_is_fetched_anew(
    make_puller: MakePuller, store: FaultyS3
) -> None:
    store.objects["m/big"] = bytes(range(256)) * 4096
    # The continuation is answered from the start, and cut short as well.
    store.faults["m/big"] = ["truncate", "ignore-range", "", ""]
    puller = make_puller()
    pulled = await puller.pull("m", "m", key_for(store))
    assert Path(pulled.path, "big").read_bytes() == store.objects["m/big"]
    assert pulled.disk_size_bytes == 1 << 20


async def test_one_that_is_always_cut_short_fails_and_leaves_nothing(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3
) -> None:
    store.objects = {"m/a": b"fine", "m/big": b"x" * 100_000}
    store.faults["m/big"] = ["truncate"] * 1000
    failure = await refusal(make_puller(attempts=2), store, "m")
    assert failure.code is Code.UNAVAILABLE
    assert "'m/big' in bucket 'models'" in failure.message
    assert await settled(tmp_path / "models") == []


async def test_a_busy_store_is_asked_again(make_puller: MakePuller, store: FaultyS3) -> None:
    store.objects = {"m/a": b"1", "m/b": b"2"}
    store.faults["?list"] = ["503", "500"]
    store.faults["m/a"] = ["503"]
    store.faults["m/b"] = ["503", "503"]
    pulled = await make_puller().pull("m", "m", key_for(store))
    assert names(pulled.path) == ["a", "b"]


async def test_a_store_that_stays_busy_is_unavailable(make_puller: MakePuller, store: FaultyS3) -> None:
    store.faults["?list"] = ["503"] * 100
    failure = await refusal(make_puller(attempts=3), store, "m")
    assert failure.code is Code.UNAVAILABLE
    assert "SlowDown" in failure.message
    assert len(store.requests) == 3


async def test_an_object_that_changed_is_pulled_as_it_is_now(
    make_puller: MakePuller, store: FaultyS3
) -> None:
    store.objects = {"m/a": b"one", "m/b": b"two"}
    store.faults["m/b"] = ["change"]
    pulled = await make_puller().pull("m", "m", key_for(store))
    assert Path(pulled.path, "a").read_bytes() == b"one"
    assert Path(pulled.path, "b").read_bytes() == b"two!"
    assert pulled.disk_size_bytes == 7


async def test_an_object_that_never_stops_changing_is_not_served(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3
) -> None:
    store.objects = {"m/a": b"one"}
    store.faults["m/a"] = ["change"] * 100
    failure = await refusal(make_puller(attempts=3), store, "m")
    assert failure.code is Code.ABORTED
    assert await settled(tmp_path / "models") == []


async def test_a_change_in_the_middle_is_noticed(make_puller: MakePuller, store: FaultyS3) -> None:
    # The first half is of the old object; the continuation would be of the new one.
    store.objects = {"m": b"a" * 100_000}
    store.faults["m"] = ["", "truncate", "change"]
    pulled = await make_puller().pull("m", "m", key_for(store))
    assert Path(pulled.path).read_bytes() == b"a" * 100_000 + b"!"


async def test_a_large_object_is_put_together_from_pieces(make_puller: MakePuller, store: FaultyS3) -> None:
    store.objects = {"m/big": bytes(range(251)) * 4001, "m/small": b"s"}
    store.faults["m/big"] = ["truncate", "503", "", "truncate"]
    puller = make_puller(piece_bytes=100_000)
    pulled = await puller.pull("m", "m", key_for(store))
    assert Path(pulled.path, "big").read_bytes() == store.objects["m/big"]
    assert pulled.disk_size_bytes == 251 * 4001 + 1
    assert len([key for _, key in store.requests if key == "m/big"]) >= 10


async def test_pieces_are_of_one_object(make_puller: MakePuller, store: FaultyS3) -> None:
    store.objects = {"m": b"a" * 1_000_000}
    store.faults["m"] = ["", "", "", "change"]
    pulled = await make_puller(piece_bytes=100_000, max_downloads=1).pull("m", "m", key_for(store))
    assert Path(pulled.path).read_bytes() == b"a" * 1_000_000 + b"!"


async def test_a_stalled_transfer_is_broken_off(make_puller: MakePuller, store: FaultyS3) -> None:
    store.objects = {"m/a": b"content"}
    store.faults["m/a"] = ["stall"]
    pulled = await make_puller(stall_timeout_s=0.3).pull("m", "m", key_for(store))
    assert Path(pulled.path, "a").read_bytes() == b"content"


async def test_a_slow_transfer_shows_progress_and_can_be_given_up(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3
) -> None:
    store.objects = {"m/a": b"quick", "m/b": b"x" * 10_000}
    store.faults["m/b"] = ["drip"]
    puller = make_puller()
    pulling = asyncio.create_task(puller.pull("m", "m", key_for(store)))
    while not puller.progress or puller.progress["m"].done_bytes < 5:
        await asyncio.sleep(0.01)
    assert puller.progress["m"].total_bytes == 10_005
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert await settled(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("403", Code.PERMISSION_DENIED),
        ("code:403:SignatureDoesNotMatch", Code.UNAUTHENTICATED),
        ("code:403:InvalidAccessKeyId", Code.UNAUTHENTICATED),
        ("code:400:ExpiredToken", Code.UNAUTHENTICATED),
        ("code:401:Unauthorized", Code.UNAUTHENTICATED),
        ("code:404:NoSuchBucket", Code.NOT_FOUND),
        ("code:400:AuthorizationHeaderMalformed", Code.INVALID_ARGUMENT),
    ],
)
async def test_a_refusal_tells_why(
    make_puller: MakePuller, store: FaultyS3, caplog: pytest.LogCaptureFixture, fault: str, code: Code
) -> None:
    caplog.set_level(logging.DEBUG)
    store.objects = {"m/a": b"1"}
    store.faults["?list"] = [fault] * 10
    store.faults["m"] = [fault] * 10
    failure = await refusal(make_puller(), store, "m")
    assert failure.code is code
    assert "bucket 'models'" in failure.message
    assert "StringToSign" not in failure.message
    store.faults["?list"] = []
    store.faults["m/a"] = [fault] * 10
    failure = await refusal(make_puller(), store, "m")
    # A key that was listed and is gone is a change, whatever made it go.
    assert failure.code is (Code.ABORTED if code is Code.NOT_FOUND else code)
    assert SECRET not in caplog.text


async def test_one_object_may_be_fetched_without_the_right_to_list(
    make_puller: MakePuller, store: FaultyS3
) -> None:
    store.objects = {"m": b"1"}
    store.faults["?list"] = ["403"]
    assert (await make_puller().pull("m", "m", key_for(store))).disk_size_bytes == 1


async def test_an_unreachable_store_is_unavailable(make_puller: MakePuller, store: FaultyS3) -> None:
    with FaultyS3().running() as gone:
        pass
    failure = await refusal(make_puller(attempts=2), gone, "m")
    assert failure.code is Code.UNAVAILABLE
    assert gone.endpoint in failure.message


async def test_no_object_name_leads_out(tmp_path: Path, make_puller: MakePuller, store: FaultyS3) -> None:
    puller = make_puller()
    for key in ("m/../../../esc", "m/..", "m/a//b", "m/./a", "m/" + "x" * 300):
        store.objects = {"m/fine": b"1", key: b"2"}
        failure = await refusal(puller, store, "m")
        assert failure.code is Code.INVALID_ARGUMENT
    assert await settled(tmp_path / "models") == []
    assert names(tmp_path) == ["local", "models", "pvc", "storage"]


async def test_an_object_in_the_place_of_a_directory_is_named(
    make_puller: MakePuller, store: FaultyS3
) -> None:
    store.objects = {"m/a": b"file", "m/a/b": b"below"}
    failure = await refusal(make_puller(), store, "m")
    assert failure.code is Code.INVALID_ARGUMENT
    assert "'m/a'" in failure.message


async def test_markers_of_directories_are_left_out(make_puller: MakePuller, store: FaultyS3) -> None:
    store.objects = {"m/": b"", "m/sub/": b"", "m/sub/x": b"1", "m/none/": b"", "m/zero": b""}
    pulled = await make_puller().pull("m", "m", key_for(store))
    assert names(pulled.path) == ["sub", "zero"]
    assert Path(pulled.path, "zero").is_file()


async def test_what_does_not_fit_is_not_fetched(
    tmp_path: Path, make_puller: MakePuller, store: FaultyS3
) -> None:
    store.objects = {"m/a": b"1234"}
    failure = await refusal(make_puller(reserved_bytes=1 << 60), store, "m")
    assert failure.code is Code.RESOURCE_EXHAUSTED
    assert store.requests == [("GET", "?list")]
    assert await settled(tmp_path / "models") == []


async def test_a_path_to_more_than_a_model_is_refused(make_puller: MakePuller, store: FaultyS3) -> None:
    store.objects = {f"m/{number}": b"" for number in range(10)}
    failure = await refusal(make_puller(max_objects=5), store, "m")
    assert failure.code is Code.INVALID_ARGUMENT


async def test_the_limit_of_downloads_holds_over_all_models(make_puller: MakePuller, store: FaultyS3) -> None:
    for model in ("a", "b", "c"):
        for number in range(4):
            store.objects[f"{model}/{number}"] = b"x" * 20
            store.faults[f"{model}/{number}"] = ["drip"]
    puller = make_puller(max_downloads=2)
    pulls = [asyncio.create_task(puller.pull(model, model, key_for(store))) for model in ("a", "b", "c")]
    while sum(progress.done_bytes for progress in puller.progress.values()) < 20:
        fetched = sum(1 for method, key in store.requests if method == "GET" and "/" in key)
        finished = sum(progress.done_bytes for progress in puller.progress.values()) // 20
        assert fetched <= 2 + finished + 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*pulls)
    assert puller.progress == {}
