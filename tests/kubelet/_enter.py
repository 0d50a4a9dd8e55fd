"""Becomes a container's process: in a root of its own over the machine's, with the container's volumes mounted.

Started in a new mount namespace, with one argument, a JSON object: ``folder`` (an empty one, for the root), ``mounts``
(source, target and whether for reading only), ``command``, ``environment`` and ``directory``. What the process writes
outside its volumes goes with it.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE = 1, 32, 4096, 16384
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: Path | str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    texts = [str(text).encode() for text in (source, target, kind)]
    if _libc.mount(*texts, ctypes.c_ulong(flags), data.encode()):
        problem = ctypes.get_errno()
        raise OSError(problem, f"mount {source} at {target}: {os.strerror(problem)}")


def _make_root(folder: Path) -> Path:
    """A root over the machine's, with its disks; its devices are those that any container has."""
    _mount("tmpfs", folder, "tmpfs")
    upper, work, root = (folder / name for name in ("upper", "work", "root"))
    for place in (upper, work, root):
        place.mkdir()
    _mount("overlay", root, "overlay", data=f"lowerdir=/,upperdir={upper},workdir={work}")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        disk = line.split()[4]
        if disk != "/" and not f"{disk}/".startswith(("/proc/", "/sys/", "/dev/", f"{folder}/")):
            _mount(disk, root / disk[1:], flags=_BIND)
    for name in ("proc", "sys"):
        _mount(f"/{name}", root / name, flags=_BIND | _RECURSIVE)
    devices = root / "dev"
    _mount("tmpfs", devices, "tmpfs")
    for name in _DEVICES:
        (devices / name).touch()
        _mount(f"/dev/{name}", devices / name, flags=_BIND)
    (devices / "shm").mkdir()
    _mount("tmpfs", devices / "shm", "tmpfs")
    (devices / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (devices / name).symlink_to(f"/proc/self/fd/{number}")
    return root


def _mount_volume(source: Path, target: Path, *, read_only: bool) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir() if source.is_dir() else target.touch()
    _mount(source, target, flags=_BIND)
    if read_only:
        _mount("none", target, flags=_BIND | _REMOUNT | _READ_ONLY)


def main() -> None:
    given = json.loads(sys.argv[1])
    root = _make_root(Path(given["folder"]))
    # Held open, since they are not in the new root. Targets are found from inside, where links lead elsewhere.
    sources = [os.open(source, os.O_PATH) for source, _, _ in given["mounts"]]
    os.chroot(root)
    os.chdir("/")
    for source, (_, target, read_only) in zip(sources, given["mounts"], strict=True):
        _mount_volume(Path(f"/proc/self/fd/{source}"), Path(target), read_only=read_only)
        os.close(source)
    os.chdir(given["directory"] or "/")
    os.environ.clear()
    os.environ.update(given["environment"])
    os.execvp(given["command"][0], given["command"])


main()
