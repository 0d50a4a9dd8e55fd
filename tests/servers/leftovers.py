"""Fails the test run that leaves a process behind, and ends the process.

Whatever a test starts, by whatever way, inherits the environment of the run, and so the mark in it.
"""

import os
import time
import uuid

import psutil
import pytest

_MARK = "MESH_TEST_RUN"
_PATIENCE_S = 3.0


def pytest_configure() -> None:
    """Marks this run."""
    os.environ[_MARK] = uuid.uuid4().hex


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Looks for processes with the mark of this run, after a moment for those that are ending."""
    deadline = time.monotonic() + _PATIENCE_S
    while (left := _marked(os.environ[_MARK])) and time.monotonic() < deadline:
        time.sleep(0.05)
    if not left:
        return
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    for process, command in left.items():
        message = f"\nThe tests left a process behind: {process.pid}, {command}"
        if terminal:
            terminal.write_line(message, red=True)
        process.kill()
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _marked(run: str) -> dict[psutil.Process, str]:
    found = {}
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            # The reaper of server processes ends with the run itself.
            if process.environ().get(_MARK) == run and not any("_reaper.py" in part for part in command):
                found[process] = " ".join(command)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    found.pop(psutil.Process(), None)
    return found
