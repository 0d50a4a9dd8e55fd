"""Names of files that sinks write."""

import itertools
import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mesh.payload.processor import InvalidProcessor, Options

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class FileNames:
    """Names for the files of one instance: in order of time, and never the same twice, also over restarts."""

    def __init__(self, instance_id: str, suffix: str) -> None:
        """Begins.

        Args:
            instance_id: of whose files.
            suffix: of all names.
        """
        self._instance = safe_name(instance_id)
        self._suffix = suffix
        self._numbers = itertools.count()

    def next(self, now: float) -> str:
        """One more name, such as ``20261121T140509.250-pod-1-0.jsonl``.

        Args:
            now: epoch seconds, when the file begins.
        """
        begun = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]
        return f"{begun}-{self._instance}-{next(self._numbers)}{self._suffix}"

    def own(self, folder: Path) -> list[Path]:
        """The files of this instance, the oldest first, also those from before a restart."""
        # Another instance's id may begin, or end, with this one's.
        mine = re.compile(
            rf"\d{{8}}T\d{{6}}\.\d{{3}}-{re.escape(self._instance)}-\d+{re.escape(self._suffix)}"
        )
        return sorted(path for path in folder.iterdir() if mine.fullmatch(path.name))


def safe_name(text: str) -> str:
    """A name as part of a path: what may not be in it becomes ``_``, and it is never ``..`` or empty."""
    return _UNSAFE.sub("_", text).lstrip(".") or "_"


def folder_of(uri: str, options: Options) -> Path:
    """The folder that a URI without a host names.

    Raises:
        InvalidProcessor: it names a host, or no absolute path.
    """
    parts = urlsplit(uri)
    if parts.netloc or not parts.path.startswith("/"):
        raise InvalidProcessor(
            f"payload processor {options.name!r}: {uri!r} must name a folder by its whole path, as in "
            f"{parts.scheme}:///var/log/payloads"
        )
    return Path(unquote(parts.path))
