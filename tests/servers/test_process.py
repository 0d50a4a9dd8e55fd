"""Processes under test are watched, and none outlives the test run."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.servers.process import ServerFailedError, ServerProcess


def test_an_early_end_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    process = ServerProcess("broken", ["sh", "-c", "echo no such option; exit 3"], tmp_path / "log")
    process.start()
    with pytest.raises(ServerFailedError, match=r"broken ended with 3:\nno such option"):
        process.wait_until(lambda: False, within=20)


def test_a_server_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    process = ServerProcess("slow", ["sleep", "60"], tmp_path / "log")
    process.start()
    with pytest.raises(ServerFailedError, match=r"slow was not ready within 0\.1 s"):
        process.wait_until(lambda: False, within=0.1)
    process.kill()
    assert not process.running


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    process = ServerProcess("stubborn", ["sh", "-c", "trap '' TERM; echo on; sleep 60"], tmp_path / "log")
    process.start()
    process.wait_until(lambda: process.log_tail() == "on")
    assert process.stop(within=0.2) == -signal.SIGKILL


def test_no_process_outlives_a_killed_test_run(tmp_path: Path) -> None:
    script = f"""
        import time
        from pathlib import Path
        from tests.servers.process import ServerProcess
        log = Path({str(tmp_path)!r}, "log")
        server = ServerProcess("server with a child", ["sh", "-c", "sleep 60 & echo $!; wait"], log)
        server.start()
        server.wait_until(lambda: server.log_tail() != "")
        print(server.pid, server.log_tail(), flush=True)
        time.sleep(60)
    """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout is not None
    left = [int(pid) for pid in run.stdout.readline().split()]
    assert len(left) == 2
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    deadline = time.monotonic() + 10
    while any(_is_running(pid) for pid in left):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    # A process that has ended and waits to be collected has no program any more.
    return Path(f"/proc/{pid}/exe").exists()
