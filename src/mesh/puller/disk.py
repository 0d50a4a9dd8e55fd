"""Blocking work on the local disk."""

import errno
import os
import shutil
import stat
from pathlib import Path

from mesh.puller.failure import Code, PullFailure


def remove(path: Path) -> None:
    """Removes a file, a link or a directory with all it holds; links are never followed. Missing is fine.

    Raises:
        OSError: something could not be removed.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_space(root: Path, wanted: int, spoken_for: int, reserved: int) -> None:
    """Checks that bytes fit on a disk before they are fetched.

    Args:
        root: a directory of that disk.
        wanted: bytes to be written.
        spoken_for: bytes that other pulls are still going to write.
        reserved: bytes to be left free.

    Raises:
        PullFailure: RESOURCE_EXHAUSTED.
    """
    free = shutil.disk_usage(root).free
    if wanted > free - spoken_for - reserved:
        raise PullFailure(
            Code.RESOURCE_EXHAUSTED,
            f"the model takes {wanted} bytes, but {root} has {free} free, of which {spoken_for} are "
            f"spoken for by other pulls and {reserved} are reserved; give the volume more space",
        )


def disk_failure(error: OSError, doing: str) -> PullFailure:
    """Puts a failure of the local disk in the puller's terms."""
    code = Code.INTERNAL
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        code = Code.RESOURCE_EXHAUSTED
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        code = Code.PERMISSION_DENIED
    elif error.errno == errno.ENAMETOOLONG:
        code = Code.INVALID_ARGUMENT
    where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
    return PullFailure(code, f"could not {doing}: {error.strerror or error}{where}")
