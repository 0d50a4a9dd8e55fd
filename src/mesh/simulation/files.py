"""Traces in files.

A text of lines, compressed where the name ends in ``.gz``. The first line is a JSON object: ``{"format": "mesh-trace",
"version": 1}``. Then each model is a JSON object with the members of `TracedModel`, sizes in bytes and times in
microseconds. Then each request is two numbers: microseconds since the request before, and the place of its model, the
first one being 0.
"""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import TextIOBase
from pathlib import Path
from typing import IO, cast

from mesh.simulation.trace import Trace, TracedModel

FORMAT, VERSION = "mesh-trace", 1


class InvalidTrace(Exception):
    """A file is no trace; the text names file, line and remedy."""


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[IO[str]]:
    if path.suffix == ".gz":
        with gzip.open(path, f"{mode}t", encoding="utf-8") as file:
            yield cast("IO[str]", cast("TextIOBase", file))
    else:
        with path.open(mode, encoding="utf-8") as file:
            yield file


def write_trace(trace: Trace, path: Path) -> None:
    """Writes a trace to a file, in place of what is there.

    Raises:
        OSError: it cannot be written.
    """
    with _opened(path, "w") as file:
        file.write(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
        file.writelines(json.dumps(asdict(model)) + "\n" for model in trace.traced)
        before_us = 0
        for time_us, number in trace.requests():
            file.write(f"{time_us - before_us} {number}\n")
            before_us = time_us


def read_trace(path: Path) -> Trace:
    """Reads a trace from a file.

    Raises:
        OSError: it cannot be read.
        InvalidTrace: it is none.
    """
    trace = Trace()
    now_us = 0
    with _opened(path, "r") as file:
        for line_number, line in enumerate(file, 1):
            try:
                if line_number == 1:
                    _check_header(line)
                elif line.startswith("{"):
                    trace.traced.append(TracedModel(**json.loads(line)))
                else:
                    gap_us, number = map(int, line.split())
                    now_us += gap_us
                    trace.add(now_us, number)
            except (ValueError, TypeError) as error:
                raise InvalidTrace(
                    f"{path}, line {line_number}: {error}; record or generate the trace anew"
                ) from None
    return trace


def _check_header(line: str) -> None:
    header = json.loads(line)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"this is no trace: its first line has no format {FORMAT!r}")
    if header.get("version") != VERSION:
        raise ValueError(f"it has version {header.get('version')}, this release reads {VERSION}")
