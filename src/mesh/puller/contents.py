"""Contents that are on the disk, kept once however many models have them, and for a while after the last one."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mesh.puller.disk import remove

_log = logging.getLogger(__name__)

CACHE_NAME = ".mesh-contents"
"""Below the root of the models: a directory for each content. On the same file system, for files are linked."""

_MANIFEST, _DATA = "manifest.json", "data"


def identity_of(*parts: object) -> str:
    """A name for a content, one to one with what it is made of; plain values only."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Content:
    size_bytes: int
    files: dict[str, int]


class Contents:
    """Keeps contents below a directory; all of it blocks, and one call at a time may run.

    A content's files are hard links of those that its owners have (models, and pulls under way): it takes no space of
    its own while one of them is here. The limit is for contents that nobody has any more; the one that was used longest
    ago goes first.

    Args:
        directory: of the contents; made when there is one.
        max_idle_bytes: of contents that nobody has.
    """

    def __init__(self, directory: Path, max_idle_bytes: int) -> None:
        self._directory = directory
        self._max_idle_bytes = max_idle_bytes
        self._known: dict[str, _Content] = {}
        self._owners: dict[str, set[str]] = {}
        self._of_owner: dict[str, set[str]] = {}
        self._idle: dict[str, int] = {}

    def load(self) -> None:
        """Finds what an earlier process has kept, and removes what it had not finished; no model has any of it.

        Raises:
            OSError: the disk refused.
        """
        if not self._directory.is_dir():
            return
        found: list[tuple[float, str, _Content]] = []
        for entry in self._directory.iterdir():
            try:
                manifest = entry / _MANIFEST
                told = json.loads(manifest.read_bytes())
                content = _Content(
                    int(told["size_bytes"]), {str(n): int(s) for n, s in told["files"].items()}
                )
                found.append((manifest.stat().st_mtime, entry.name, content))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                remove(entry)
        for _, identity, content in sorted(found, key=lambda one: one[0]):
            self._known[identity] = content
            self._idle[identity] = sum(content.files.values())
        self._shrink()

    def take(self, identity: str, owner: str, target: Path) -> int | None:
        """Gives an owner a content, where it is here and whole.

        Args:
            identity: of the content.
            owner: whose it becomes.
            target: does not exist yet; becomes a file or a directory.

        Returns:
            The size of the model's files in bytes, None where the content is not here.
        """
        content = self._known.get(identity)
        if content is None:
            return None
        data = self._directory / identity / _DATA
        try:
            if _sizes(data) != content.files:
                raise OSError("its files have changed")
            _link_all(data, target, content.files)
        except OSError as error:
            _log.warning("content %s is not used again: %s", identity[:12], error)
            remove(target)
            self._forget(identity)
            return None
        os.utime(self._directory / identity / _MANIFEST)
        self._belongs(identity, owner)
        return content.size_bytes

    def keep(self, identity: str, owner: str, source: Path, size_bytes: int) -> None:
        """Keeps what an owner has got.

        Args:
            identity: of the content.
            owner: whose it is.
            source: its file or directory.
            size_bytes: that `take` is to tell.
        """
        place = self._directory / identity
        try:
            files = _sizes(source)
            remove(place)
            place.mkdir(parents=True)
            _link_all(source, place / _DATA, files)
            # Last: without it, the content is none.
            (place / _MANIFEST).write_text(json.dumps({"size_bytes": size_bytes, "files": files}))
        except OSError as error:
            # The model is here all the same; file systems without hard links only cannot share.
            _log.warning("content %s cannot be kept: %s", identity[:12], error)
            remove(place)
            return
        self._known[identity] = _Content(size_bytes, files)
        self._belongs(identity, owner)

    def hand_over(self, owner: str, to: str) -> None:
        """Makes what one owner has that of another, in place of what that one had."""
        taken = self._of_owner.pop(owner, set())
        for identity in taken:
            self._owners[identity].discard(owner)
            self._owners[identity].add(to)
        had, self._of_owner[to] = self._of_owner.get(to, set()), taken
        self._leave(to, had - taken)

    def release(self, owner: str) -> None:
        """The owner's files are gone: contents that nobody else has are kept as far as there is room."""
        self._leave(owner, self._of_owner.pop(owner, set()))

    def _belongs(self, identity: str, owner: str) -> None:
        self._idle.pop(identity, None)
        self._owners.setdefault(identity, set()).add(owner)
        self._of_owner.setdefault(owner, set()).add(identity)

    def _leave(self, owner: str, identities: Iterable[str]) -> None:
        for identity in identities:
            owners = self._owners[identity]
            owners.discard(owner)
            if not owners:
                del self._owners[identity]
                self._idle[identity] = sum(self._known[identity].files.values())
        self._shrink()

    def _shrink(self) -> None:
        total = sum(self._idle.values())
        while total > self._max_idle_bytes:
            oldest = next(iter(self._idle))
            total -= self._idle[oldest]
            self._forget(oldest)

    def _forget(self, identity: str) -> None:
        self._idle.pop(identity, None)
        self._known.pop(identity, None)
        for owner in self._owners.pop(identity, ()):
            self._of_owner[owner].discard(identity)
        remove(self._directory / identity)
        if not self._known:
            with suppress(OSError):
                self._directory.rmdir()


def _sizes(data: Path) -> dict[str, int]:
    """The files of a content by their path below it; ``.`` where it is one file itself. Links count by their text."""
    if data.is_file():
        return {".": data.stat().st_size}
    return {str(file.relative_to(data)): file.lstat().st_size for file in _walk(data)}


def _walk(directory: Path) -> Iterable[Path]:
    for folder, subfolders, names in os.walk(directory):
        for name in names:
            yield Path(folder, name)
        for name in subfolders:
            # A link to a directory is told as one.
            if (link := Path(folder, name)).is_symlink():
                yield link


def _link_all(source: Path, target: Path, files: Iterable[str]) -> None:
    if source.is_file():
        target.hardlink_to(source)
        return
    target.mkdir()
    for folder, subfolders, _ in os.walk(source):
        for name in subfolders:
            if not Path(folder, name).is_symlink():
                target.joinpath(Path(folder, name).relative_to(source)).mkdir()
    for name in files:
        os.link(source / name, target / name, follow_symlinks=False)
