"""What people are told whose machine lacks something that ``./up`` and ``./test`` need."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_SHELL_TOOLS = [
    "bash",
    "cat",
    "cut",
    "dirname",
    "env",
    "find",
    "flock",
    "pwd",
    "rm",
    "sed",
    "sha256sum",
    "sort",
    "tail",
    "xargs",
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without an environment, and a ``bin`` with the usual shell tools, no Python and no cargo."""
    checkout = tmp_path / "checkout"
    for file in (
        "up",
        "test",
        "tools/environment.sh",
        "tools/constraints.txt",
        "pyproject.toml",
        "dataplane/Cargo.toml",
        "dataplane/Cargo.lock",
    ):
        (checkout / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(_ROOT / file, checkout / file)
    (checkout / "dataplane/src").mkdir()
    (checkout / "bin").mkdir()
    for tool in _SHELL_TOOLS:
        path = shutil.which(tool)
        if path:
            (checkout / "bin" / tool).symlink_to(path)
    return checkout


def _program(checkout: Path, name: str, script: str) -> None:
    program = checkout / "bin" / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def _run(checkout: Path, command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": str(checkout / "bin")}
    environment.pop("PYTHON", None)
    return subprocess.run(
        [checkout / command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("command", ["up", "test"])
def test_no_recent_python(checkout: Path, command: str) -> None:
    _program(checkout, "python3", "exit 1  # as an older release answers the question for its version")
    done = _run(checkout, command)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_environment_that_does_not_run(checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to("/bin/false")
    done = _run(checkout, "up")
    assert done.returncode == 1
    assert "remove .venv and start again" in done.stderr


def test_no_cargo(checkout: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    done = _run(checkout, "up")
    assert done.returncode == 1
    assert "no `cargo` on PATH" in done.stderr
    assert "install Rust 1." in done.stderr


def test_a_failed_step_shows_the_end_of_its_output_and_names_the_log(checkout: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    _program(checkout, "cargo", "exit 0")
    done = _run(checkout, "up")
    assert done.returncode == 1
    assert "installing the build tool ... failed" in done.stderr
    assert "No module named pip" in done.stderr
    assert ".venv/install.log" in done.stderr


def test_a_second_start_installs_nothing(checkout: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    (checkout / "src/mesh/dataplane").mkdir(parents=True)
    (checkout / "src/mesh/dataplane/_dataplane.abi3.so").touch()
    mesh = checkout / ".venv/bin/mesh"
    mesh.write_text('#!/bin/sh\necho mesh "$@"\n')
    mesh.chmod(0o755)
    _program(checkout, "cargo", "exit 0")
    python = checkout / ".venv/bin/python"
    real = python.resolve()
    python.unlink()
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] && echo "$@" >>{checkout}/installed && exit\nexec {real} "$@"\n'
    )
    python.chmod(0o755)
    maturin = checkout / ".venv/bin/maturin"
    maturin.write_text(f'#!/bin/sh\necho maturin "$@" >>{checkout}/installed\n')
    maturin.chmod(0o755)

    assert _run(checkout, "up").stdout == "mesh up\n"
    first = (checkout / "installed").read_text()
    assert "maturin develop --release" in first
    assert ".[examples]" in first
    again = _run(checkout, "up")
    assert (again.stdout, again.stderr) == ("mesh up\n", "")
    assert (checkout / "installed").read_text() == first

    (checkout / "dataplane/src/lib.rs").write_text("// changed")
    _run(checkout, "up")
    assert (checkout / "installed").read_text().removeprefix(first).startswith("maturin develop")
