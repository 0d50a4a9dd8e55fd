"""Runs one container of a pod as a process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.kubelet.probes import Probe, carry_out
from tests.servers.process import ServerProcess

_ENTER = Path(__file__).with_name("_enter.py")
#: Before a container that ended is started again, seconds; it doubles each time.
_BACK_OFF_S = 1.0


class Container:
    """A container, which is started again when it ends.

    Args:
        spec: of the pod.
        folder: of its own.
        network: id of the process whose network it shares.
        address: of the pod.
        haste: of its probes.
    """

    def __init__(
        self, spec: Mapping[str, Any], folder: Path, network: int, address: str, haste: float
    ) -> None:
        self.name = str(spec["name"])
        self.log = folder.with_suffix(".log")
        self._spec = spec
        self._folder = folder
        self._network = network
        self._address = address
        self._haste = haste
        self._restarts = -1
        self._started_at = ""
        self._may_start = 0.0
        self._process: ServerProcess | None = None
        self._probes: dict[str, Probe] = {}
        self._last_state: dict[str, Any] = {}
        self._message = folder.with_suffix(".message")
        self._description: dict[str, Any] = {}
        self.leaving = False

    def define(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        mounts: Sequence[tuple[str, str, bool]],
    ) -> None:
        """Says what to run."""
        self._message.touch()
        path = self._spec.get("terminationMessagePath") or "/dev/termination-log"
        self._folder.mkdir(exist_ok=True)
        self._description = {
            "folder": str(self._folder),
            "mounts": [*mounts, (str(self._message), path, False)],
            "command": list(command),
            "environment": dict(environment),
            "directory": self._spec.get("workingDir", ""),
        }

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def ready(self) -> bool:
        probe = self._probes.get("readinessProbe")
        return self.running and (probe is None or probe.result is True)

    def tick(self) -> None:
        """Starts it, asks its probes, and notes that it ended."""
        if self._process is not None and not self._process.running:
            self._note_end()
        if self._process is None:
            if not self.leaving and time.monotonic() >= self._may_start:
                self._start()
            return
        startup = self._probes.get("startupProbe")
        if startup is not None and not startup.result:
            startup.tick()
        else:
            for name in self._probes.keys() - {"startupProbe"}:
                self._probes[name].tick()
        unwell = any(
            name in self._probes and self._probes[name].result is False
            for name in ("livenessProbe", "startupProbe")
        )
        if unwell and not self.leaving:
            self._process.stop(5.0)

    def end(self, within_s: float) -> None:
        """Lets its hook run, asks it to end, and ends it when the time is over."""
        deadline = time.monotonic() + within_s
        hook = (self._spec.get("lifecycle") or {}).get("preStop")
        if hook and self.running:
            hooked = threading.Thread(
                target=carry_out,
                args=(hook, self._spec, self._address, self._execute, within_s),
                daemon=True,
            )
            hooked.start()
            # A container that ends by itself needs no hook.
            while hooked.is_alive() and self.running and time.monotonic() < deadline:
                hooked.join(0.05)
        process = self._process
        if process is not None and process.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        while self.running and time.monotonic() < deadline:
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._note_end()

    def status(self) -> dict[str, Any]:
        """As the pod's status has it."""
        if self.running:
            state: dict[str, Any] = {"running": {"startedAt": self._started_at}}
        elif self.leaving and self._last_state:
            state = self._last_state
        else:
            state = {"waiting": {"reason": "CrashLoopBackOff" if self._last_state else "ContainerCreating"}}
        return {
            "name": self.name,
            "image": self._spec.get("image", ""),
            "imageID": "",
            "ready": self.ready,
            "started": self.running,
            "restartCount": max(self._restarts, 0),
            "state": state,
            "lastState": self._last_state if not self.leaving else {},
        }

    def _start(self) -> None:
        self._message.write_bytes(b"")
        self._process = ServerProcess(
            self.name, [*self._inside(), json.dumps(self._description)], self.log, cwd=Path("/")
        )
        self._process.start()
        self._restarts += 1
        self._started_at = _now()
        self._probes = {
            kind: Probe(written, self._asked(written), self._haste)
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
            if (written := self._spec.get(kind))
        }

    def _asked(self, written: Mapping[str, Any]) -> Any:
        return lambda within_s: carry_out(written, self._spec, self._address, self._execute, within_s)

    def _inside(self) -> list[str]:
        python = [sys.executable, "-I", "-S", str(_ENTER)]
        network = f"--net=/proc/{self._network}/ns/net"
        return ["nsenter", network, "unshare", "--mount", "--propagation", "private", *python]

    def _execute(self, command: list[str], within_s: float) -> bool:
        if self._process is None or not self.running:
            return False
        inside = ["nsenter", "--target", str(self._process.pid), "--net", "--mount", "--root", "--wd"]
        try:
            done = subprocess.run(
                [*inside, *command],
                env=self._description["environment"],
                capture_output=True,
                check=False,
                timeout=within_s,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _note_end(self) -> None:
        assert self._process is not None
        status = self._process.kill()
        code = 128 - status if status < 0 else status
        self._last_state = {
            "terminated": {
                "exitCode": code,
                "reason": "Error" if code else "Completed",
                "message": self._message.read_text(errors="replace")[:4096],
                "startedAt": self._started_at,
                "finishedAt": _now(),
            }
        }
        self._process = None
        self._probes = {}
        self._may_start = time.monotonic() + min(_BACK_OFF_S * 2 ** max(self._restarts, 0), 60.0)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
