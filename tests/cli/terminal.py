"""The `mesh` command as a process, in a terminal or without one."""

import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Mapping

MESH = [sys.executable, "-c", "from mesh.cli import main; main(prog_name='mesh')"]


class Terminal:
    """A command in a pseudo terminal of 200 columns and 50 lines."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._keyboard, screen = pty.openpty()
        termios.tcsetwinsize(screen, (50, 200))
        self.before = termios.tcgetattr(screen)
        self._screen = screen
        self.shown = ""
        self.process = subprocess.Popen(
            [*MESH, *arguments],
            stdin=screen,
            stdout=screen,
            stderr=screen,
            env={**os.environ, "TERM": "xterm", **(environment or {})},
            start_new_session=True,
        )
        os.set_blocking(self._keyboard, False)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            self._read()
            assert self.process.poll() is None or text in self.shown, self.shown
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.02)

    def press(self, keys: bytes) -> None:
        os.write(self._keyboard, keys)

    def ended(self, seconds: float = 60) -> int:
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            self._read()
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.02)
        self._read()
        return self.process.returncode

    def attributes(self) -> list[object]:
        return termios.tcgetattr(self._screen)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._keyboard)
        os.close(self._screen)

    def _read(self) -> None:
        try:
            self.shown += os.read(self._keyboard, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            return
