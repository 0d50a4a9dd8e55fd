"""`mesh up` as a process under test."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from click.testing import CliRunner, Result

from mesh.cli import main
from tests.cli.terminal import MESH


class RunningLaptop:
    """One `mesh up`, with its output and every process that it has had."""

    def __init__(
        self, directory: Path, port: int, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        self.home = directory / "home"
        self.temporary = directory / "tmp"
        self.working = directory / "cwd"
        for place in (self.home, self.temporary, self.working):
            place.mkdir(parents=True)
        self._output = directory / "output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*MESH, "up", "--port", str(port), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.working,
                env={
                    **os.environ,
                    "HOME": str(self.home),
                    "TMPDIR": str(self.temporary),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    **(environment or {}),
                },
                start_new_session=True,
            )
        self.seen: dict[int, psutil.Process] = {}

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def note_processes(self) -> list[psutil.Process]:
        """Remembers who is there now, for `left_over`."""
        try:
            children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen |= {child.pid: child for child in children}
        return children

    def model_servers(self) -> list[psutil.Process]:
        return [child for child in self.note_processes() if "--socket" in child.cmdline()]

    def wait_for(self, text: str, seconds: float = 90, *, times: int = 1) -> None:
        deadline = time.monotonic() + seconds
        while self.output.count(text) < times:
            self.note_processes()
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def end(self, number: signal.Signals = signal.SIGINT, seconds: float = 60) -> int:
        self.note_processes()
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def left_over(self) -> list[psutil.Process]:
        """Processes that it started and that are still there."""
        return [
            child
            for child in self.seen.values()
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        ]

    def files_outside(self) -> list[Path]:
        """What was written where nothing should be."""
        return [file for place in (self.home, self.temporary, self.working) for file in place.rglob("*")]

    def run(self, *arguments: str, instance: int = 0) -> Result:
        return CliRunner().invoke(main, [*arguments, "--address", f"127.0.0.1:{self.port + instance}"])

    def ask(self, *arguments: str, instance: int = 0) -> Any:
        """Runs a command with ``--json``, and reads what it prints."""
        result = self.run(*arguments, "--json", instance=instance)
        assert result.exit_code == 0, result.output
        return json.loads(result.output)


@contextmanager
def running_laptop(directory: Path, port: int, *arguments: str, **options: Any) -> Iterator[RunningLaptop]:
    laptop = RunningLaptop(directory, port, *arguments, **options)
    try:
        yield laptop
    finally:
        laptop.note_processes()
        if laptop.process.poll() is None:
            laptop.process.kill()
            laptop.process.wait()
        for process in laptop.left_over():
            process.kill()
