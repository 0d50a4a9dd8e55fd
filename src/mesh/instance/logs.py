"""Logs as JSON lines on standard error, one object an event.

Context travels in ``extra``: ``log.info("loaded", extra={"model": model_id})``.
"""

import logging
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TextIO

import msgspec

from mesh.instance.dynamic import DynamicSettings

#: Between two times that a library's line is shown which says the same, seconds.
_REPEAT_S = 60.0
#: Of libraries, that are remembered.
_MOST_LINES = 1_000
_NO_CONTEXT: Mapping[str, str] = {}
#: Attributes that every `logging.LogRecord` has; what else is there came in by ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


#: Goes into every line that is logged on behalf of a request: the headers that ``MM_LOG_REQUEST_HEADERS`` names.
request_context: ContextVar[Mapping[str, str]] = ContextVar("request_context")


class JsonFormatter(logging.Formatter):
    """Renders a record as one JSON object with ``time``, ``level``, ``logger``, ``message`` and its context."""

    def __init__(self, context: dict[str, str]) -> None:
        super().__init__()
        self._context = context
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self._second = -1
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        """Returns: one line without its end."""
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        attributes = vars(record)
        line: dict[str, object] = {
            "time": f"{self._stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._context,
            **request_context.get(_NO_CONTEXT),
        }
        for name in attributes.keys() - _STANDARD:
            line[name] = attributes[name]
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return self._encoder.encode(line).decode()


class _Repeats(logging.Filter):
    """Holds back what a library says over and over, as about a server that is down.

    What that means is told by those who use the library; they know how often.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns: whether the line is to be shown."""
        if record.name == "mesh" or record.name.startswith("mesh."):
            return True
        line = record.name, record.getMessage()
        if record.created - self._said.get(line, -_REPEAT_S) < _REPEAT_S:
            return False
        if len(self._said) >= _MOST_LINES:
            self._said.clear()
        self._said[line] = record.created
        return True


def configure(level: str, stream: TextIO = sys.stderr, **context: str) -> None:
    """Sends the log of the ``mesh`` package and warnings of libraries to ``stream``; ``context`` is in every line.

    A library that says the same over and over is shown once a minute.

    Raises:
        ValueError: ``level`` is not a level's name.
    """
    # What no line shows need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(context))
    handler.addFilter(_Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("mesh").setLevel(level_number(level))


#: Names of levels in KServe ModelMesh's log4j that differ from those here.
_OTHER_NAMES = {"ALL": "DEBUG", "TRACE": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL", "OFF": "CRITICAL"}


def level_number(name: str) -> int:
    """The number of a level's name, also of log4j's.

    Raises:
        ValueError: it is no level's name.
    """
    number = logging.getLevelNamesMapping().get(_OTHER_NAMES.get(name.upper(), name.upper()))
    if number is None:
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return number


def follow(dynamic: DynamicSettings, otherwise: str) -> None:
    """Has the config key ``logger_level`` set the level; without one it is ``otherwise``."""

    def apply(level: int | None) -> None:
        logging.getLogger("mesh").setLevel(level_number(otherwise) if level is None else level)

    dynamic.on("logger_level", level_number, apply)
