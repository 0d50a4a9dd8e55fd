"""Data that is on a file system here already, and is linked instead of copied."""

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.puller.failure import Code, PullFailure
from mesh.puller.provider import Advance, Workshop

_MAX_LINKS = 40
"""In one path, as in the Linux kernel."""


def resolve_inside(root: Path, segments: Sequence[str]) -> Path:
    """Follows a path as if ``root`` were the root of the file system.

    A link to ``/x`` leads to ``root/x``, and no ``..`` leads out: so read the links of a volume those who
    wrote them while it was mounted elsewhere.

    Raises:
        OSError: no such file, or too many links.
    """
    root = root.resolve(strict=True)
    at = root
    pending = list(reversed(segments))
    links = 0
    while pending:
        segment = pending.pop()
        if segment in {"", "."}:
            continue
        if segment == "..":
            at = at.parent if at != root else root
            continue
        below = at / segment
        if stat.S_ISLNK(below.lstat().st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(below))
            target = below.readlink()
            if target.is_absolute():
                at = root
            pending.extend(reversed([part for part in target.parts if part != "/"]))
        else:
            at = below
    at.stat()
    return at


def measure_inside(root: Path, source: Path) -> int:
    """Sums the bytes of the files at and below ``source``; no link there may lead out of ``root``.

    Raises:
        PullFailure: PERMISSION_DENIED, a link leads out; INVALID_ARGUMENT, it is neither file nor directory.
        OSError: something cannot be read.
    """
    root = root.resolve(strict=True)
    total = 0
    seen: set[Path] = set()
    pending = [source]
    while pending:
        at = pending.pop()
        real = Path(os.path.realpath(at, strict=True))
        if real != root and root not in real.parents:
            raise PullFailure(
                Code.PERMISSION_DENIED, f"'{at.relative_to(root)}' is a link that leads out of its volume"
            )
        if real in seen:
            continue
        status = real.stat()
        if stat.S_ISDIR(status.st_mode):
            seen.add(real)
            pending.extend(real.iterdir())
        elif stat.S_ISREG(status.st_mode):
            total += status.st_size
        else:
            raise PullFailure(
                Code.INVALID_ARGUMENT, f"'{at.relative_to(root)}' is neither a file nor a directory"
            )
    return total


@dataclass(frozen=True, slots=True)
class LinkedSource:
    """Data that stays where it is.

    Attributes:
        path: absolute, without links.
        size_bytes: of its files.
    """

    path: Path
    size_bytes: int
    workshop: Workshop

    @property
    def identity(self) -> str:
        """None: there is nothing to keep."""
        return ""

    @property
    def copied(self) -> bool:
        """Never: a link takes no space."""
        return False

    async def fetch(self, target: Path, advance: Advance) -> None:
        """Makes ``target`` a link."""
        await self.workshop.run(target.symlink_to, self.path)
        advance(self.size_bytes)


def storage_failure(error: OSError, place: str, path: str) -> PullFailure:
    """Puts a failure to read mounted storage in the puller's terms, without naming paths of the host."""
    what = f"'{path}' in {place}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return PullFailure(Code.NOT_FOUND, f"unable to access model local path: there is no {what}")
        case errno.EACCES | errno.EPERM:
            return PullFailure(
                Code.PERMISSION_DENIED, f"may not read {what}; give the mesh's user read access to it"
            )
        case errno.ELOOP | errno.ENAMETOOLONG:
            return PullFailure(Code.INVALID_ARGUMENT, f"cannot follow {what}: {error.strerror}")
        case _:
            return PullFailure(Code.UNAVAILABLE, f"cannot read {what}: {error.strerror or error}")
