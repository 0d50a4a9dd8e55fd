"""A configuration file that may change while the instance runs, such as a mounted ConfigMap.

Kubernetes replaces such a file by moving a link of its folder, which no watch of the file itself would notice. So the
file is looked at again and again, which costs one system call and holds for every way in which files are replaced.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from mesh.instance.errors import StartRefused

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Between two looks at the file, seconds.
LOOK_EVERY_S = 1.0
#: A file may not be there yet when its container starts; it is awaited so long, seconds, as KServe ModelMesh has it.
FIRST_WITHIN_S = 5.0
#: What cannot be read may be half written: it is read once more after so long, seconds, as KServe ModelMesh has it.
READ_AGAIN_S = 0.5


class MountedFileError(StartRefused):
    """The file is not there or cannot be used; the text names the setting, the file and the reason."""


class _Stamp(NamedTuple):
    inode: int
    changed_ns: int
    size: int


class MountedFile(Generic[T]):
    """One file and what it says.

    Args:
        setting: the setting that names the file, for messages.
        path: of the file.
        parse: reads its text; raises ``ValueError`` or ``TypeError`` for one that cannot be used.
        look_every_s: seconds between two looks.

    Attributes:
        trouble: why the file as it is now is not in effect; empty where it is.
    """

    def __init__(
        self, setting: str, path: str, parse: Callable[[str], T], *, look_every_s: float = LOOK_EVERY_S
    ) -> None:
        self._setting = setting
        self._path = Path(path)
        self._parse = parse
        self._look_every_s = look_every_s
        self._stamp: _Stamp | None = None
        self.trouble = ""

    async def first(self, within_s: float = FIRST_WITHIN_S) -> T:
        """Reads the file for the first time, awaiting it if it is not there yet.

        Raises:
            MountedFileError: it is not there in time, or cannot be used.
        """
        deadline = asyncio.get_running_loop().time() + within_s
        while self._look() is None:
            if asyncio.get_running_loop().time() > deadline:
                raise MountedFileError(
                    f"{self._setting}={self._path}: there is no such file after {within_s:g} s; mount it or unset"
                    f" {self._setting}"
                )
            await asyncio.sleep(min(0.1, self._look_every_s))
        self._stamp = self._look()
        try:
            return await self._read()
        except (OSError, ValueError, TypeError) as error:
            raise MountedFileError(f"{self._setting}={self._path}: {error}") from None

    async def follow(self, apply: Callable[[T], None]) -> None:
        """Applies what the file says whenever it has changed, until cancelled.

        What cannot be used is logged, and what was in effect stays.
        """
        while True:
            await asyncio.sleep(self._look_every_s)
            stamp = self._look()
            if stamp is None or stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                apply(await self._read())
            except (OSError, ValueError, TypeError) as error:
                self.trouble = f"{self._setting}={self._path}: {error}"
                log.error("%s; what it said before stays in effect", self.trouble)
                continue
            self.trouble = ""
            log.info("%s=%s has changed and is in effect", self._setting, self._path)

    def _look(self) -> _Stamp | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return _Stamp(found.st_ino, found.st_mtime_ns, found.st_size)

    async def _read(self) -> T:
        try:
            return self._parse(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            await asyncio.sleep(READ_AGAIN_S)
            return self._parse(self._path.read_text(encoding="utf-8"))
