"""Unpacks archives of unknown origin; all of it blocks.

Nothing leaves the target, and no more comes out than is allowed.
"""

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from mesh.puller.failure import Code, PullFailure
from mesh.puller.names import split_path

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_ZIP = (".zip",)
_COPY_BYTES = 1 << 20
# A method that zipfile does not know is a NotImplementedError, an entry with a password a RuntimeError.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    UnicodeError,
    NotImplementedError,
    RuntimeError,
)

Keep = Callable[[PurePosixPath], PurePosixPath | None]
"""Gives the path below the target at which an entry goes, None for an entry that stays out."""


class Allowance:
    """What may still be written: bytes and files.

    Args:
        max_bytes: in all.
        max_files: directories and links among them.
        check_disk: raises where so many more bytes do not fit on the disk.
    """

    def __init__(self, max_bytes: int, max_files: int, check_disk: Callable[[int], None]) -> None:
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._check_disk = check_disk
        self.bytes = 0
        self.files = 0

    def take_file(self) -> None:
        """Counts one more entry; raises `PullFailure` where there are too many."""
        self.files += 1
        if self.files > self._max_files:
            raise PullFailure(
                Code.INVALID_ARGUMENT,
                f"the archive has more than {self._max_files} entries; give that of one model",
            )

    def take_bytes(self, count: int) -> None:
        """Counts bytes before they are written; raises `PullFailure` where there are too many."""
        self.bytes += count
        if self.bytes > self._max_bytes:
            raise PullFailure(
                Code.RESOURCE_EXHAUSTED,
                f"the archive unpacks to more than {self._max_bytes} bytes; unpack it in the storage, or allow more",
            )
        self._check_disk(count)


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked."""
    return name.lower().endswith((*_TAR, *_ZIP))


def unpack(archive: Path, name: str, target: Path, allowance: Allowance) -> None:
    """Unpacks an archive into a new directory.

    Args:
        archive: the file.
        name: what it was called, which tells its format.
        target: the directory; does not exist yet.
        allowance: what may come out of it.

    Raises:
        PullFailure: INVALID_ARGUMENT, it is damaged or has an entry that leads out of the directory;
            RESOURCE_EXHAUSTED, too much would come out.
    """
    target.mkdir()
    if name.lower().endswith(_ZIP):
        with _worded(name):
            _unzip(archive, target, allowance)
    else:
        untar_file(archive, name, target, allowance)


def untar_file(
    archive: Path, name: str, target: Path, allowance: Allowance, keep: Keep = lambda path: path
) -> None:
    """Unpacks a tar, compressed or not, into a directory that is there. Owners, special bits and devices stay out.

    Raises:
        PullFailure: INVALID_ARGUMENT, it is damaged or has an entry that leads out; RESOURCE_EXHAUSTED, too much
            would come out.
    """
    with _worded(name), archive.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as entries:
        for entry in entries:
            path = keep(PurePosixPath(*split_path(entry.name, "archive entry")))
            if path is None or not path.parts:
                continue
            allowance.take_file()
            place = _place(target, path)
            if entry.isdir():
                _make_directory(place)
            elif entry.issym():
                _link(place, entry.linkname)
            elif entry.isreg() and (content := entries.extractfile(entry)) is not None:
                _copy(content, place, allowance)
            else:
                raise PullFailure(
                    Code.INVALID_ARGUMENT,
                    f"archive entry '{entry.name}' is neither a file, a directory nor a symbolic link; pack it without",
                )
    _check_links(target)


def _unzip(archive: Path, target: Path, allowance: Allowance) -> None:
    with zipfile.ZipFile(archive) as entries:
        for entry in entries.infolist():
            place = _place(target, PurePosixPath(*split_path(entry.filename, "archive entry")))
            if place == target:
                continue
            allowance.take_file()
            if entry.is_dir():
                _make_directory(place)
                continue
            with entries.open(entry) as content:
                _copy(content, place, allowance)


def _place(target: Path, path: PurePosixPath) -> Path:
    """Where an entry goes, with its parents made; no link on the way is followed."""
    place = target
    for segment in path.parts[:-1]:
        place /= segment
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise PullFailure(
                Code.INVALID_ARGUMENT, f"archive entry '{path}' lies below '{segment}', which is no directory"
            )
        place.mkdir(exist_ok=True)
    return target.joinpath(*path.parts)


def _make_directory(place: Path) -> None:
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise _twice(place)
    place.mkdir(exist_ok=True)


def _link(place: Path, to: str) -> None:
    if place.is_symlink() or place.exists():
        raise _twice(place)
    place.symlink_to(to)


def _check_links(target: Path) -> None:
    """Links may lead through one another, so that only all of them together tell where one ends."""
    real = target.resolve()
    found = (Path(folder, name) for folder, folders, files in os.walk(target) for name in (*folders, *files))
    for place in filter(Path.is_symlink, found):
        try:
            inside = place.resolve().is_relative_to(real)
        except (OSError, RuntimeError):
            inside = False  # in a circle
        if not inside:
            raise PullFailure(
                Code.INVALID_ARGUMENT,
                f"archive entry '{place.relative_to(target)}' is a link that leads out of the archive or nowhere",
            )


def _twice(place: Path) -> PullFailure:
    return PullFailure(
        Code.INVALID_ARGUMENT,
        f"archive entry '{place.name}' is there twice, as different things; pack it anew",
    )


def _copy(content: IO[bytes], place: Path, allowance: Allowance) -> None:
    if place.is_symlink() or place.is_dir():
        raise _twice(place)
    with place.open("wb") as output:
        while chunk := content.read(_COPY_BYTES):
            allowance.take_bytes(len(chunk))
            output.write(chunk)


@contextmanager
def _worded(name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise PullFailure(
            Code.INVALID_ARGUMENT,
            f"archive '{name}' cannot be unpacked: {error or 'it is damaged'}; pack it anew",
        ) from None
