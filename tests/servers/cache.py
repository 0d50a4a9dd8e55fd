"""Programs that tests start, installed once per machine outside the work tree.

Each lives in ``<root>/<name>-<version>-<digest of its recipe>``, so a changed recipe is a new folder and two
work trees can share the cache. ``MODEL_MESH_CACHE`` moves the root.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_COMPLETE = ".complete"


class ServerUnavailableError(Exception):
    """This machine cannot provide a server; the message names the server and the remedy."""


def root() -> Path:
    """The folder of everything installed for tests."""
    chosen = os.environ.get("MODEL_MESH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "model-mesh"


@dataclass(frozen=True)
class Recipe:
    """How one program comes onto the machine.

    Attributes:
        name: What people call it.
        version: Its release.
        inputs: Everything else that its build depends on; a change installs it anew.
        takes: What to tell someone who waits for the first installation.
        build: Installs into the empty folder it is given, with :func:`run` for its commands.
    """

    name: str
    version: str
    inputs: Sequence[str]
    takes: str
    build: Callable[["Build"], None]

    @property
    def folder(self) -> Path:
        """Where the program is, or will be."""
        digest = hashlib.sha256("\0".join(self.inputs).encode()).hexdigest()[:10]
        return root() / f"{self.name}-{self.version}-{digest}"

    def is_installed(self) -> bool:
        """Whether the whole installation is there."""
        return (self.folder / _COMPLETE).exists()

    def provision(self, announce: Callable[[str], None] = lambda message: None) -> Path:
        """The folder with the program, installed now if it is not there yet.

        Safe against other test runs: one installs while the others wait, and a run that was interrupted
        leaves nothing that would be taken for an installation.

        Raises:
            ServerUnavailableError: The installation failed; the message ends with what it printed last.
        """
        if self.is_installed():
            return self.folder
        with _locked(self.folder):
            if self.is_installed():
                return self.folder
            announce(f"installing {self.name} {self.version} for the tests, once per machine ({self.takes})")
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self.build(Build(self.name, self.folder, self.folder.with_name(self.folder.name + ".log")))
            (self.folder / _COMPLETE).touch()
        return self.folder


@dataclass(frozen=True)
class Build:
    """One installation under way."""

    name: str
    folder: Path
    log: Path

    def run(
        self, *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Runs a command, with its output in the log.

        Raises:
            ServerUnavailableError: The command failed.
        """
        with self.log.open("a") as log:
            done = subprocess.run(
                [str(part) for part in command],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
            raise ServerUnavailableError(
                f"{self.name} could not be installed: `{' '.join(map(str, command))}` ended with "
                f"{done.returncode}. The whole output is in {self.log}; its end:\n{tail}"
            )

    def venv(self, base: Path = Path(sys.executable)) -> Path:
        """Makes a virtual environment of ``base`` in the folder and returns its interpreter."""
        self.run(base, "-m", "venv", self.folder / "venv")
        return self.folder / "venv" / "bin" / "python"

    def pip_install(self, python: Path, *requirements: str | Path) -> None:
        """Installs packages into the environment of ``python``."""
        self.run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)


def require_program(name: str, needed_by: str, remedy: str) -> str:
    """The path of a program of the machine.

    Raises:
        ServerUnavailableError: It is not on ``PATH``.
    """
    path = shutil.which(name)
    if path is None:
        raise ServerUnavailableError(f"{needed_by} needs `{name}`, which is not on PATH: {remedy}")
    return path


def go_recipe(name: str, version: str, package: str, what: str, takes: str) -> Recipe:
    """A program that Go builds from a published module.

    Args:
        name: of the recipe.
        version: of the module.
        package: with its version.
        what: needs it, for people.
        takes: what to tell someone who waits.
    """

    def build(build: Build) -> None:
        require_program("go", what, "install Go 1.25 or newer")
        build.run(
            "go",
            "install",
            "-trimpath",
            "-ldflags=-s -w",
            package,
            env={"GOBIN": str(build.folder), "CGO_ENABLED": "0"},
        )

    return Recipe(name, version, [package], takes, build)


def interpreter(versions: Sequence[str], needed_by: str) -> Path:
    """A Python of one of the given versions (such as ``3.11``): the running one, or one on ``PATH``.

    Raises:
        ServerUnavailableError: There is none.
    """
    if f"{sys.version_info.major}.{sys.version_info.minor}" in versions:
        return Path(sys.executable)
    for version in versions:
        path = shutil.which(f"python{version}")
        # Version managers put names on PATH that do not run.
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return Path(path)
    raise ServerUnavailableError(
        f"{needed_by} needs Python {' or '.join(versions)}, and this is {sys.version.split()[0]}: "
        "install one of them"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
