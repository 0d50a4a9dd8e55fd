"""Lets the containers beside this one stay until the instance has left the mesh."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mesh.instance.http import Environ, HttpEndpoint

#: Calls that may wait at a time; a pod has a handful of containers.
MOST_WAITERS = 64
#: When the instance ends, answers get so long to go out, seconds.
ANSWER_WITHIN_S = 1.0


class Prestop:
    """Serves ``/prestop``, which answers 200 when the instance has left the mesh.

    A model server's container has it as its ``preStop`` hook, so that Kubernetes does not stop the server while the
    instance still hands models over and serves.

    Args:
        host: to listen on.
        port: to listen on.
        longest_s: a call waits no longer than this, seconds.

    Raises:
        OSError: the port cannot be bound.
    """

    def __init__(self, host: str, port: int, longest_s: float) -> None:
        self._longest_s = longest_s
        self._left = threading.Event()
        self._slots = threading.Semaphore(MOST_WAITERS)
        self._idle = threading.Condition()
        self._waiting = 0
        self._endpoint = HttpEndpoint(self._answer, host, port, "MM_PRESTOP_WAIT_PORT")

    @property
    def port(self) -> int:
        """The bound port."""
        return self._endpoint.port

    def _answer(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        plain = [("Content-Type", "text/plain")]
        if str(environ["PATH_INFO"]).rstrip("/") != "/prestop":
            start_response("404 Not Found", plain)
            return [b"known path: /prestop\n"]
        if not self._slots.acquire(blocking=False):
            start_response("503 Service Unavailable", plain)
            return [f"{MOST_WAITERS} calls wait already\n".encode()]
        start_response("200 OK", plain)
        return self._wait()

    def _wait(self) -> Iterator[bytes]:
        # The server closes this when the answer is out, so that `close` knows when all have theirs.
        with self._idle:
            self._waiting += 1
        try:
            left = self._left.wait(self._longest_s)
            yield b"the instance has left the mesh\n" if left else b"waited long enough\n"
        finally:
            self._slots.release()
            with self._idle:
                self._waiting -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """Lets everyone go, and stops answering."""
        self._left.set()
        with self._idle:
            self._idle.wait_for(lambda: self._waiting == 0, ANSWER_WITHIN_S)
        self._endpoint.close()
