"""What a kubelet asks of a container: probes, and hooks before its end."""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

#: Runs a command in the container: the command and seconds it may take; tells whether it went well.
Execute = Callable[[list[str], float], bool]


def carry_out(
    action: Mapping[str, Any], container: Mapping[str, Any], address: str, execute: Execute, within_s: float
) -> bool:
    """Does what a probe or hook says, and tells whether it went well.

    Args:
        action: with one of ``httpGet``, ``tcpSocket``, ``exec``.
        container: whose ports may be named.
        address: of the pod.
        execute: for ``exec``.
        within_s: seconds that it may take.
    """
    if "exec" in action:
        return execute(list(action["exec"]["command"]), within_s)
    kind = "httpGet" if "httpGet" in action else "tcpSocket"
    target = action[kind]
    host, port = target.get("host") or address, _port(target["port"], container)
    try:
        if kind == "tcpSocket":
            socket.create_connection((host, port), within_s).close()
            return True
        url = f"{target.get('scheme', 'HTTP').lower()}://{host}:{port}{target.get('path', '/')}"
        with urllib.request.urlopen(url, timeout=within_s) as answer:
            return bool(200 <= answer.status < 400)
    except (OSError, urllib.error.URLError):
        return False


def _port(written: int | str, container: Mapping[str, Any]) -> int:
    if isinstance(written, int):
        return written
    return next(
        int(port["containerPort"]) for port in container.get("ports") or () if port.get("name") == written
    )


class Probe:
    """One probe of a container, from its start on.

    Args:
        written: as the pod has it.
        ask: carries it out within seconds.
        haste: by how much it is asked sooner and more often than written.
    """

    def __init__(self, written: Mapping[str, Any], ask: Callable[[float], bool], haste: float) -> None:
        self._ask = ask
        self._timeout_s = float(written.get("timeoutSeconds", 1))
        self._period_s = written.get("periodSeconds", 10) / haste
        self._wanted = {True: written.get("successThreshold", 1), False: written.get("failureThreshold", 3)}
        self._next = time.monotonic() + written.get("initialDelaySeconds", 0) / haste
        self._last: bool | None = None
        self._times = 0
        #: None until a threshold was reached.
        self.result: bool | None = None

    def tick(self) -> None:
        """Asks, if it is time to."""
        if time.monotonic() < self._next:
            return
        answer = self._ask(self._timeout_s)
        self._times = self._times + 1 if answer is self._last else 1
        self._last = answer
        if self._times >= self._wanted[answer]:
            self.result = answer
        self._next = time.monotonic() + self._period_s
