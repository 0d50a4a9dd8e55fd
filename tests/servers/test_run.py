"""What holds for a whole test run, tried on small runs of their own."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

_ROOT = Path(__file__).parents[2]


def _run(folder: Path, source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_small.py").write_text(source)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.conftest",
            "-c",
            os.devnull,
            f"--rootdir={folder}",
            folder,
        ],
        env={**os.environ, "CI": "", "PYTHONPATH": str(_ROOT), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


SKIPS = """
import pytest

@pytest.mark.skip(reason="not on this machine")
def test_marked(): pass

def test_inside():
    pytest.skip("nor this")
"""


def test_a_skipped_test_fails_in_ci_only(tmp_path: Path) -> None:
    elsewhere = _run(tmp_path, SKIPS)
    assert elsewhere.returncode == pytest.ExitCode.OK
    assert "2 skipped" in elsewhere.stdout
    in_ci = _run(tmp_path, SKIPS, CI="true")
    assert in_ci.returncode == pytest.ExitCode.TESTS_FAILED
    assert "passed" not in in_ci.stdout.splitlines()[-1]
    assert "skipped" not in in_ci.stdout.splitlines()[-1]
    assert "not on this machine" in in_ci.stdout
    assert "nor this" in in_ci.stdout


def test_a_skipped_module_fails_in_ci(tmp_path: Path) -> None:
    in_ci = _run(tmp_path, "import pytest; pytest.importorskip('no_such_module')", CI="true")
    assert in_ci.returncode == pytest.ExitCode.INTERRUPTED
    assert "no_such_module" in in_ci.stdout


def test_a_process_left_behind_fails_the_run_and_is_ended(tmp_path: Path) -> None:
    source = "import subprocess\ndef test_a(): print(subprocess.Popen(['sleep', '321']).pid)"
    left = _run(tmp_path, source)
    assert left.returncode == pytest.ExitCode.TESTS_FAILED
    [line] = [line for line in left.stdout.splitlines() if line.startswith("The tests left a process behind")]
    pid = int(line.split(":")[1].split(",")[0])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
