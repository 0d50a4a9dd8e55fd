"""Gives each pod a network of its own, in which it has one address and all ports."""

import itertools
import os
import subprocess
import threading
from pathlib import Path

_PREFIX = "meshnet"


class NoNetworkError(Exception):
    """The machine does not let the tests make networks; the message says why."""


class Bridge:
    """A bridge on this machine, which reaches the pods from an address of its own.

    A pod's network goes with its last process, and its cable with the network. Only the bridge is left by a test run
    that was killed; the next one takes it away.

    Attributes:
        host: address of this machine, for the pods.
    """

    def __init__(self) -> None:
        """Makes the bridge, in a subnet that no other test run has.

        Raises:
            NoNetworkError: it cannot be made.
        """
        _sweep()
        for number in range(256):
            name = f"{_PREFIX}{number}"
            if Path("/sys/class/net", name).exists():
                continue
            try:
                # The kernel lets only one run make it.
                _ip("link", "add", name, "type", "bridge")
            except NoNetworkError:
                if not Path("/sys/class/net", name).exists():
                    raise
                continue
            break
        else:
            raise NoNetworkError(f"all of {_PREFIX}0 to {_PREFIX}255 are taken")
        _ip("link", "set", name, "alias", str(os.getpid()))
        self._name = name
        self._subnet = f"10.88.{number}"
        self._number = number
        self._hosts = itertools.cycle(range(2, 255))
        self._cables = itertools.count()
        self._lock = threading.Lock()
        self._taken: set[str] = set()
        self.host = f"{self._subnet}.1"
        _ip("address", "add", f"{self.host}/24", "dev", name)
        _ip("link", "set", name, "up")

    def attach(self, pid: int) -> str:
        """Connects the network of a process and returns the address that it has from now on."""
        with self._lock:
            address = next(
                found for host in self._hosts if (found := f"{self._subnet}.{host}") not in self._taken
            )
            self._taken.add(address)
            cable = f"mk{self._number}-{next(self._cables)}"
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _ip("link", "set", cable, "master", self._name, "up")
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        _run(*inside, "ip", "link", "set", "lo", "up")
        _run(*inside, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        _run(*inside, "ip", "link", "set", "eth0", "up")
        return address

    def release(self, address: str) -> None:
        """Lets another pod have an address."""
        with self._lock:
            self._taken.discard(address)

    def close(self) -> None:
        """Removes the bridge."""
        _ip("link", "delete", self._name)


def _sweep() -> None:
    for found in Path("/sys/class/net").glob(f"{_PREFIX}*"):
        owner = (found / "ifalias").read_text().strip()
        if owner and not Path("/proc", owner).exists():
            _ip("link", "delete", found.name)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError as missing:
        raise NoNetworkError(f"{missing}: install iproute2 and util-linux") from None
    if done.returncode:
        raise NoNetworkError(f"{' '.join(command)}: {done.stderr.strip()}")
