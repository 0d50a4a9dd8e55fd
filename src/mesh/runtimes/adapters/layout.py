"""A model's directory in a server's repository: small files, and links to where the data is."""

import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from mesh.runtimes.interface import RuntimeFailure


@dataclass(frozen=True, slots=True)
class Layout:
    """What the directory holds, by path relative to it.

    Attributes:
        links: to absolute paths.
        files: with their content.
    """

    links: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Makes the directory, in place of the one there may be.

        Raises:
            OSError: the disk refused.
        """
        remove_directory(directory)
        directory.mkdir(parents=True)
        for name, target in self.links.items():
            link = directory / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)


def remove_directory(directory: Path) -> None:
    """Removes a directory of a repository; missing is fine, and links in it are not followed."""
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(directory)
    else:
        directory.unlink()


def make_directory(directory: Path) -> None:
    """Makes a repository, where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)


def clear_directory(directory: Path) -> None:
    """Makes a repository empty, or makes it."""
    make_directory(directory)
    for entry in directory.iterdir():
        remove_directory(entry)


def entries(directory: Path) -> dict[str, Path]:
    """Lists a model's directory by name, without the schema that older pullers put there."""
    return {entry.name: entry for entry in sorted(directory.iterdir()) if entry.name != "_schema.json"}


def plain_directory(model_id: str, server: str) -> str:
    """Names the directory of a model where a server takes that for the model's name.

    Args:
        model_id: becomes the name as it is.
        server: for the message.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT, the id can be no name of a directory.
    """
    if model_id in {"", ".", ".."} or "/" in model_id or "\0" in model_id or len(model_id.encode()) > 255:
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"{server} cannot serve model '{model_id}': its name must be that of a directory, without '/' and at "
            "most 255 bytes long; register the model under another id",
        )
    return model_id


#: Of a model whose directory tells none.
NO_VERSION = "1"


def newest_version(path: Path, found: Mapping[str, Path]) -> tuple[str, Path]:
    """Where all directories of a model are named by numbers, they are its versions, and the highest one counts.

    Args:
        path: the model's directory.
        found: its entries.

    Returns: the version's name and its directory; `NO_VERSION` and the model's directory where there are none.
    """
    names = [name for name, entry in found.items() if entry.is_dir()]
    if not names or not all(re.fullmatch(r"[0-9]{1,18}", name) for name in names):
        return NO_VERSION, path
    newest = max(names, key=int)
    return (newest, found[newest]) if int(newest) > 0 else (NO_VERSION, path)


def require_path(path: Path) -> Path:
    """Returns a model's path where it leads to something.

    Raises:
        RuntimeFailure: INVALID_ARGUMENT, it is not absolute; NOT_FOUND, there is nothing.
    """
    if not path.is_absolute():
        raise RuntimeFailure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"model path '{path}' is not absolute; turn the puller on, or give the path of a local file",
        )
    if not path.exists():
        raise RuntimeFailure(
            grpc.StatusCode.NOT_FOUND, f"Error calling stat on {path}: no such file or directory"
        )
    return path
