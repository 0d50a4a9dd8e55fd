"""Processes under test: started in their own group, watched for an early end, and never left behind."""

import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from ssl import SSLContext
from typing import IO

_running: "set[ServerProcess]" = set()


class ServerFailedError(Exception):
    """A server ended or did not get ready; the message has the end of its log."""


class ServerProcess:
    """One process (with its children), its log, and the signals that tests send to it.

    Methods block, for as long as their argument or a second; a coroutine calls them through
    :func:`asyncio.to_thread`. Should the test run be killed, the processes are too.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Describes a process; nothing runs yet.

        Args:
            name: For messages.
            command: Program and arguments.
            log: File that gets its standard output and error; appended to over restarts.
            env: Variables on top of those of the test run.
            cwd: Working directory.
        """
        self.name = name
        self.command = [str(part) for part in command]
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the latest start."""
        return self._started.pid

    @property
    def running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the process; it need not be ready when this returns."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        _tell_reaper(f"+{self.pid}")
        _running.add(self)

    def wait_until(self, ready: Callable[[], bool], within: float = 30.0) -> None:
        """Waits until ``ready`` answers true.

        Args:
            ready: Asked every 20 ms.
            within: Seconds until the wait is given up.

        Raises:
            ServerFailedError: The process ended first, or the time is over.
        """
        deadline = time.monotonic() + within
        while not ready():
            if not self.running:
                raise ServerFailedError(
                    f"{self.name} ended with {self._started.returncode}:\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise ServerFailedError(f"{self.name} was not ready within {within:g} s:\n{self.log_tail()}")
            time.sleep(0.02)

    def stop(self, within: float = 10.0) -> int:
        """Asks the process to end (SIGTERM), kills it if it does not, and returns its exit status.

        Args:
            within: Seconds it has to end by itself.
        """
        if self.running:
            self.resume()
            self._started.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._started.wait(within)
        return self.kill()

    def kill(self) -> int:
        """Kills the process and its children at once (SIGKILL) and returns the exit status."""
        self._signal_group(signal.SIGKILL)
        status = self._started.wait()
        _running.discard(self)
        _tell_reaper(f"-{self.pid}")
        return status

    def pause(self) -> None:
        """Freezes the process (SIGSTOP): its connections stay open and nothing answers."""
        self._signal_group(signal.SIGSTOP)
        self.wait_until(lambda: _is_stopped(self.pid))

    def resume(self) -> None:
        """Lets a paused process go on (SIGCONT)."""
        self._signal_group(signal.SIGCONT)

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._process

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._started.pid, number)


def _is_stopped(pid: int) -> bool:
    # Threads stop one by one, each when it is next scheduled.
    states = (
        path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")
    )
    return all(state == "T" for state in states)


@cache
def _reaper() -> IO[str]:
    started = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("_reaper.py"))],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.wait()
    assert started.stdin is not None
    return started.stdin


def _tell_reaper(line: str) -> None:
    print(line, file=_reaper(), flush=True)


@atexit.register
def _kill_what_is_left() -> None:
    for process in list(_running):
        process.kill()


def free_port() -> int:
    """A TCP port of loopback that nothing uses.

    It lies below the range from which the kernel takes the ports of outgoing connections: a server that is
    down for a while must find its port free again, and a client that keeps trying a dead port of that range
    can in the end connect to itself.
    """
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10240, max(first_outgoing, 10241 + 1000))
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def http_ok(url: str, context: SSLContext | None = None) -> bool:
    """Whether a GET of the address is answered with a status of 200 to 299 within a second."""
    try:
        with urllib.request.urlopen(url, timeout=1, context=context) as answer:
            return bool(200 <= answer.status < 300)
    except (OSError, urllib.error.URLError):
        return False


def http_answers(url: str) -> bool:
    """Whether a GET of the address is answered within a second, with whatever status."""
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, urllib.error.URLError):
        return False
    return True


def port_open(port: int) -> bool:
    """Whether something listens at a port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
