import asyncio
import json
import resource
from pathlib import Path
from typing import Any

import pytest

from mesh.payload import InvalidProcessor, open_processor
from tests.payload.inference import call
from tests.payload.parts import options, request


def lines(folder: Path) -> list[Any]:
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]


async def test_payloads_become_lines_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    sink = open_processor(f"jsonl://{folder}".replace(" ", "%20"), options(decoded=True, fsync="batch"))
    await sink.process(call(1, [[1.0, 2.0]]))
    await sink.process([request(b"\xff", id="c2")])
    # Already there for others, before anything is closed.
    first, second, third = lines(folder)
    await sink.close(1)
    assert [first["id"], second["id"], third["id"]] == ["c1", "c1", "c2"]
    assert first["message"]["inputs"][0]["data"] == [1.0, 2.0]
    assert second["message"]["outputs"][0]["data"] == [0.5]
    assert third["data"] == "/w=="


async def test_files_are_ended_by_size_and_by_time_and_old_ones_go(tmp_path: Path) -> None:
    sink = open_processor(f"jsonl://{tmp_path}", options(max_bytes=1, keep_files=2))
    for number in range(4):
        await sink.process([request(id=f"c{number}")])
    await sink.close(1)
    assert [line["id"] for line in lines(tmp_path)] == ["c2", "c3"]
    sink = open_processor(f"jsonl://{tmp_path}", options(max_seconds=0.05))
    await sink.process([request(id="c4")])
    await asyncio.sleep(0.06)
    await sink.process([request(id="c5")])
    await sink.close(1)
    assert [line["id"] for line in lines(tmp_path)] == ["c2", "c3", "c4", "c5"]
    assert len(list(tmp_path.iterdir())) == 4


async def test_a_batch_that_the_disk_does_not_take_leaves_no_half_line(tmp_path: Path) -> None:
    sink = open_processor(f"jsonl://{tmp_path}", options())
    await sink.process([request(id="c1")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            await sink.process([request(b"x" * 200, id="c2")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await sink.process([request(id="c3")])
    await sink.close(1)
    assert [line["id"] for line in lines(tmp_path)] == ["c1", "c3"]


async def test_a_folder_that_cannot_be_written_is_an_attempt_that_failed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sink = open_processor(f"jsonl://{tmp_path}/file", options())
    with pytest.raises(OSError, match="file"):
        await sink.process([request()])
    (tmp_path / "file").unlink()
    await sink.process([request()])
    await sink.close(1)
    assert len(lines(tmp_path / "file")) == 1


@pytest.mark.parametrize("uri", ["jsonl://host/path", "jsonl:relative", "jsonl://"])
def test_a_folder_is_named_by_its_whole_path(uri: str) -> None:
    with pytest.raises(InvalidProcessor, match="must name a folder by its whole path"):
        open_processor(uri, options())
