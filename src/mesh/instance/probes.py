"""The probes ``/ready`` and ``/live``."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mesh.instance.http import Environ, HttpEndpoint

#: The event loop stamps its pulse so often, seconds.
PULSE_INTERVAL_S = 1.0
#: Without a pulse for so long the process is not live, seconds: longer than any pause that heals by itself.
PULSE_LIMIT_S = 60.0


class Probes:
    """Serves ``/ready`` (503 with the reasons while there are any) and ``/live`` (503 when the event loop is stuck).

    Args:
        unready: why requests should not come here; empty where they should.

    Raises:
        OSError: the port cannot be bound.
    """

    def __init__(self, host: str, port: int, unready: Callable[[], Sequence[str]]) -> None:
        self._unready = unready
        self._pulse = time.monotonic()
        self._beat = asyncio.get_running_loop().create_task(self._keep_beating(), name="probe-pulse")
        self._endpoint = HttpEndpoint(self._answer, host, port, "MM_PROBE_PORT")

    @property
    def port(self) -> int:
        """The bound port."""
        return self._endpoint.port

    async def _keep_beating(self) -> None:
        while True:
            self._pulse = time.monotonic()
            await asyncio.sleep(PULSE_INTERVAL_S)

    def _answer(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        match str(environ["PATH_INFO"]).rstrip("/"):
            case "/ready":
                reasons = self._unready()
            case "/live":
                late = time.monotonic() - self._pulse > PULSE_LIMIT_S
                reasons = (f"the event loop has not run for {PULSE_LIMIT_S:g} s",) if late else ()
            case _:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"known paths: /ready, /live\n"]
        status = "503 Service Unavailable" if reasons else "200 OK"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{'; '.join(reasons) or 'ok'}\n".encode()]

    def close(self) -> None:
        """Stops answering."""
        self._beat.cancel()
        self._endpoint.close()
