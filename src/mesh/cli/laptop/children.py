"""Child processes: started, kept alive, ended, none left behind."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mesh.cli.laptop import tether

#: Waits before a child that ended is started again, seconds; the last one repeats.
RESTART_DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
#: A child that lived so long is thought to have recovered, so that the waits start over.
RECOVERED_AFTER_S = 30.0
#: Lines of a log that are shown where its writer ended.
LOG_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A program to be run.

    Attributes:
        name: for people.
        command: the program and its arguments.
        environment: of the program, complete.
        directory: in which it runs.
        log: gets its output.
        stale: a file that an earlier run may have left and that would keep it from starting; a socket.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    stale: Path | None = None


@dataclass(slots=True)
class Child:
    """One program that runs until it is stopped; `keep_alive` starts it again where it ends by itself."""

    spec: ChildSpec
    _process: asyncio.subprocess.Process | None = field(default=None, init=False)
    _stopping: bool = field(default=False, init=False)

    @property
    def pid(self) -> int | None:
        """The process id; None before the first start."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Starts it, in a session of its own, so that a Ctrl-C reaches only its parent."""
        if self.spec.stale is not None:
            self.spec.stale.unlink(missing_ok=True)
        with self.spec.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *tethered(self.spec.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.spec.environment),
                cwd=self.spec.directory,
                start_new_session=True,
            )

    async def ended(self) -> str:
        """Waits until it ends.

        Returns: how, for people, such as ``exit status 1``.
        """
        assert self._process is not None  # noqa: S101 - start comes first
        return ending(await self._process.wait())

    async def keep_alive(self, tell: Callable[[str], None]) -> None:
        """Starts it again whenever it ends, with growing waits, until `stop`; ``tell`` gets a line."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started = loop.time()
            how = await self.ended()
            if self._stopping:
                return
            if loop.time() - started > RECOVERED_AFTER_S:
                failures = 0
            delay = RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)]
            failures += 1
            tell(
                f"{self.spec.name} ended ({how}); starting it again in {delay:g} s. Its log: {self.spec.log}"
            )
            await asyncio.sleep(delay)
            await self.start()

    async def stop(self, grace_s: float) -> bool:
        """Asks it to end, and kills it and what it started where it has not after ``grace_s``.

        Returns: whether it ended by itself.
        """
        self._stopping = True
        if self._process is None:
            return True
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self.kill()
            await self._process.wait()
            return False
        # What it started and did not end, such as workers of a custom runtime.
        self.kill()
        return True

    def kill(self) -> None:
        """Ends it and what it started, at once."""
        self._stopping = True
        self._signal(signal.SIGKILL)

    def log_tail(self) -> str:
        """The last lines that it wrote."""
        try:
            lines = self.spec.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return


def tethered(command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` so that it ends with this process."""
    return [sys.executable, "-I", "-S", str(tether.__file__), str(os.getpid()), *command]


def ending(return_code: int) -> str:
    """How a process ended, for people."""
    if return_code >= 0:
        return f"exit status {return_code}"
    try:
        return f"signal {signal.Signals(-return_code).name}"
    except ValueError:
        return f"signal {-return_code}"
