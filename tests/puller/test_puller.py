"""What a puller does whatever the storage: one download, turns, cancellation, failures, purge."""

import asyncio
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mesh.puller import Code, PullFailure, Turns
from mesh.puller import providers as providers_module
from mesh.puller.provider import Advance, Workshop
from tests.puller.conftest import MakePuller, names

KEY = '{"storage_params":{"type":"slow"}}'


class SlowStore:
    """Storage whose transfers go on when the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.started = asyncio.Event()
        self.fetches: list[Path] = []
        self.stopped = 0
        self.size = 10
        self.failure: BaseException | None = None

    def open(self, config: Mapping[str, Any], workshop: Workshop) -> "SlowProvider":
        return SlowProvider(self)


class SlowProvider:
    copied = True
    identity = ""

    def __init__(self, store: SlowStore) -> None:
        self.store = store
        self.size_bytes = store.size

    async def find(self, path: str) -> "SlowProvider":
        return self

    async def fetch(self, target: Path, advance: Advance) -> None:
        self.store.fetches.append(target)
        target.mkdir()
        (target / "part").write_bytes(b"1234")
        advance(4)
        self.store.started.set()
        try:
            await self.store.go_on.wait()
        except asyncio.CancelledError:
            self.store.stopped += 1
            raise
        if self.store.failure is not None:
            raise self.store.failure
        (target / "rest").write_bytes(b"567890")
        advance(6)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> SlowStore:
    store = SlowStore()
    monkeypatch.setattr(providers_module, "PROVIDERS", {"slow": store.open})
    return store


async def settled(root: Path) -> list[str]:
    """Waits until nothing is being written or removed below a root; tells what is there."""
    work = root / ".mesh-puller"
    for _ in range(500):
        if not work.exists() or not any(work.iterdir()):
            break
        await asyncio.sleep(0.01)
    return sorted(entry.name for entry in root.iterdir() if entry != work)


async def test_many_who_ask_share_one_download(
    tmp_path: Path, make_puller: MakePuller, store: SlowStore
) -> None:
    puller = make_puller()
    asked = [asyncio.create_task(puller.pull("m", "x", KEY)) for _ in range(20)]
    await store.started.wait()
    assert not (tmp_path / "models" / "m").exists()
    assert puller.progress["m"].done_bytes == 4
    assert puller.progress["m"].total_bytes == 10
    store.go_on.set()
    answers = await asyncio.gather(*asked)
    assert len({answer.path for answer in answers}) == 1
    assert len(store.fetches) == 1
    assert names(answers[0].path) == ["part", "rest"]
    assert puller.progress == {}


async def test_one_who_gives_up_does_not_stop_the_others(make_puller: MakePuller, store: SlowStore) -> None:
    puller = make_puller()
    impatient, patient = (asyncio.create_task(puller.pull("m", "x", KEY)) for _ in range(2))
    await store.started.wait()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    store.go_on.set()
    assert (await patient).disk_size_bytes == 10
    assert store.stopped == 0


async def test_the_last_one_who_gives_up_stops_the_download(
    tmp_path: Path, make_puller: MakePuller, store: SlowStore
) -> None:
    puller = make_puller()
    asked = [asyncio.create_task(puller.pull("m", "x", KEY)) for _ in range(3)]
    await store.started.wait()
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert await settled(tmp_path / "models") == []
    assert store.stopped == 1
    # And the model can be pulled at once.
    store.go_on.set()
    assert (await puller.pull("m", "x", KEY)).disk_size_bytes == 10


async def test_other_data_of_a_model_waits_for_its_turn(make_puller: MakePuller, store: SlowStore) -> None:
    puller = make_puller()
    first = asyncio.create_task(puller.pull("m", "old", KEY))
    await store.started.wait()
    second = asyncio.create_task(puller.pull("m", "new", KEY))
    await asyncio.sleep(0.05)
    assert len(store.fetches) == 1
    store.go_on.set()
    assert (await first).path.endswith("m/old")
    pulled = await second
    assert pulled.path.endswith("m/new")
    assert not Path(pulled.path).with_name("old").exists()


async def test_models_do_not_wait_for_each_other(make_puller: MakePuller, store: SlowStore) -> None:
    puller = make_puller()
    both = [asyncio.create_task(puller.pull(name, "x", KEY)) for name in ("a", "b")]
    while len(store.fetches) < 2:
        await asyncio.sleep(0.01)
    store.go_on.set()
    await asyncio.gather(*both)


async def test_a_deletion_runs_after_the_pull_asked_for_before_it(
    tmp_path: Path, make_puller: MakePuller, store: SlowStore
) -> None:
    puller = make_puller()
    pulling = asyncio.create_task(puller.pull("m", "x", KEY))
    await store.started.wait()
    deleting = asyncio.create_task(puller.delete("m"))
    await asyncio.sleep(0)
    again = asyncio.create_task(puller.pull("m", "x", KEY))
    store.go_on.set()
    await pulling
    await deleting
    # Not shared with the first, whose data the deletion removed.
    assert Path((await again).path).exists()
    assert len(store.fetches) == 2


async def test_a_failed_pull_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path, make_puller: MakePuller, store: SlowStore
) -> None:
    puller = make_puller()
    store.failure = PullFailure(Code.UNAVAILABLE, "gone")
    store.go_on.set()
    with pytest.raises(PullFailure, match="Failed to pull model from storage due to error: gone"):
        await puller.pull("m", "x", KEY)
    assert await settled(tmp_path / "models") == []
    store.failure = None
    earlier = await puller.pull("m", "x", KEY)
    store.failure = PullFailure(Code.UNAVAILABLE, "gone")
    with pytest.raises(PullFailure):
        await puller.pull("m", "x", KEY)
    assert names(earlier.path) == ["part", "rest"]


async def test_a_full_disk_is_told_as_such(make_puller: MakePuller, store: SlowStore) -> None:
    store.failure = OSError(errno.ENOSPC, "No space left on device")
    store.go_on.set()
    with pytest.raises(PullFailure) as raised:
        await make_puller().pull("m", "x", KEY)
    assert raised.value.code is Code.RESOURCE_EXHAUSTED


async def test_what_cannot_fit_is_not_fetched(make_puller: MakePuller, store: SlowStore) -> None:
    store.size = 1 << 60
    with pytest.raises(PullFailure) as raised:
        await make_puller().pull("m", "x", KEY)
    assert raised.value.code is Code.RESOURCE_EXHAUSTED
    assert str(1 << 60) in raised.value.message
    assert store.fetches == []


async def test_space_that_another_pull_needs_is_spoken_for(
    tmp_path: Path, make_puller: MakePuller, store: SlowStore
) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    store.size = free * 2 // 3
    puller = make_puller()
    first = asyncio.create_task(puller.pull("a", "x", KEY))
    await store.started.wait()
    with pytest.raises(PullFailure) as raised:
        await puller.pull("b", "x", KEY)
    assert raised.value.code is Code.RESOURCE_EXHAUSTED
    store.go_on.set()
    await first
    store.size = 10
    await puller.pull("b", "x", KEY)


async def test_purge_removes_only_what_is_the_pullers(
    tmp_path: Path, make_puller: MakePuller, store: SlowStore
) -> None:
    root = tmp_path / "models"
    store.go_on.set()
    await make_puller().pull("old", "x", KEY)
    for foreign in ("lost+found", "_triton_models", "theirs"):
        (root / foreign).mkdir()
    (root / "model_config_list.json").write_text("{}")
    (root / ".mesh-puller" / "pull-9").mkdir()
    assert await make_puller().purge() == ["old"]
    assert sorted(entry.name for entry in root.iterdir()) == [
        "_triton_models",
        "lost+found",
        "model_config_list.json",
        "theirs",
    ]


async def test_purge_leaves_alone_what_it_may_not_look_into(
    tmp_path: Path, make_puller: MakePuller, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "lost+found").mkdir()
    look = Path.is_file

    def refuse(path: Path) -> bool:
        if path.parent.name == "lost+found":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    assert await make_puller().purge() == []
    assert names(tmp_path / "models") == ["lost+found"]


async def test_purge_makes_a_missing_root(tmp_path: Path, make_puller: MakePuller) -> None:
    assert await make_puller(root=tmp_path / "new" / "root").purge() == []
    assert (tmp_path / "new" / "root").is_dir()


async def test_what_is_not_the_pullers_is_neither_replaced_nor_deleted(
    tmp_path: Path, make_puller: MakePuller, store: SlowStore
) -> None:
    (tmp_path / "models" / "theirs").mkdir()
    (tmp_path / "models" / "link").symlink_to(tmp_path / "local")
    puller = make_puller()
    store.go_on.set()
    for name in ("theirs", "link"):
        with pytest.raises(PullFailure, match="not made by mesh"):
            await puller.pull(name, "x", KEY)
        with pytest.raises(PullFailure, match="not made by mesh"):
            await puller.delete(name)
    assert (tmp_path / "local").is_dir()


@pytest.mark.parametrize(
    "model_id", ["..", "../../esc", "a/b", "/etc", ".", "_triton_models", ".mesh-puller", "x" * 999]
)
async def test_no_model_id_leads_out_of_the_root(
    tmp_path: Path, make_puller: MakePuller, store: SlowStore, model_id: str
) -> None:
    (tmp_path / "models" / "_triton_models").mkdir()
    store.go_on.set()
    puller = make_puller()
    pulled = await puller.pull(model_id, "x", KEY)
    assert Path(pulled.path).parent.parent == tmp_path / "models"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["local", "models", "pvc", "storage"]
    await puller.delete(model_id)
    assert await settled(tmp_path / "models") == ["_triton_models"]


async def test_an_empty_model_id_is_refused(make_puller: MakePuller, store: SlowStore) -> None:
    puller = make_puller()
    with pytest.raises(PullFailure, match="empty"):
        await puller.pull("", "x", KEY)
    with pytest.raises(PullFailure, match="empty"):
        await puller.delete("")


async def test_an_unknown_type_names_the_known_ones(make_puller: MakePuller) -> None:
    with pytest.raises(PullFailure) as raised:
        await make_puller().pull("m", "x", '{"storage_params":{"type":"floppy"}}')
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert raised.value.message.startswith(
        "Failed to pull model from storage due to error: could not process pull command: "
        "no provider registered for repositories of type 'floppy'"
    )
    assert "s3" in raised.value.message


async def test_those_who_wait_while_it_closes_are_told(make_puller: MakePuller, store: SlowStore) -> None:
    puller = make_puller()
    waiting = asyncio.create_task(puller.pull("m", "x", KEY))
    await store.started.wait()
    await puller.close()
    with pytest.raises(PullFailure, match="shutting down"):
        await waiting


class TestTurns:
    async def test_turns_come_in_the_order_they_were_taken(self) -> None:
        turns = Turns()
        order: list[int] = []

        async def work(number: int) -> None:
            async with turns.turn("m"):
                await asyncio.sleep(0.001 * (5 - number))
                order.append(number)

        await asyncio.gather(*(work(number) for number in range(5)))
        assert order == [0, 1, 2, 3, 4]

    async def test_one_who_leaves_the_queue_holds_nobody_up(self) -> None:
        turns = Turns()
        first, second, third = (turns.take("m") for _ in range(3))
        await first.come()
        waiting = asyncio.create_task(second.come())
        await asyncio.sleep(0)
        waiting.cancel()
        second.end()
        last = asyncio.create_task(third.come())
        await asyncio.sleep(0.01)
        assert not last.done()
        first.end()
        await asyncio.wait_for(last, 5)
