"""The log is JSON lines with their context."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from mesh.instance import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, package = logging.getLogger(), logging.getLogger("mesh")
    before = root.handlers[:], root.level, package.level
    stream = io.StringIO()
    logs.configure("INFO", stream, instance="pod-1")
    yield stream
    root.handlers[:], root.level, package.level = before


def test_a_line_has_its_message_and_context(stream: io.StringIO) -> None:
    logging.getLogger("mesh.test").info("loaded %s", "it", extra={"model": "m", "bytes": 5})
    logging.getLogger("mesh.test").debug("not shown")
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "mesh.test",
        "message": "loaded it",
        "instance": "pod-1",
        "model": "m",
        "bytes": 5,
    }


def test_an_error_brings_its_traceback_in_the_same_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("mesh.test").exception("failed")
    [line] = stream.getvalue().splitlines()
    assert "ValueError: broken" in json.loads(line)["error"]


def test_a_library_that_repeats_itself_is_shown_once_in_a_while(stream: io.StringIO) -> None:
    library, own = logging.getLogger("library"), logging.getLogger("mesh.test")
    for _ in range(3):
        library.error("no way to %s", "host-1")
        own.info("asked")
    library.error("no way to %s", "host-2")
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages == ["no way to host-1", "asked", "asked", "asked", "no way to host-2"]
