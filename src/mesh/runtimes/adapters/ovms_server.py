"""The REST calls by which OpenVINO Model Server is told of its models."""

import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import grpc

from mesh.runtimes.adapters.ovms_batches import Told
from mesh.runtimes.interface import RuntimeFailure

_AVAILABLE = "AVAILABLE"
_MAX_ANSWER_BYTES = 64 << 20


class OvmsServer:
    """One server, by its REST port.

    Args:
        address: ``host:port``.
        reload_timeout_s: for a reading of the file, loads included.
        status_timeout_s: for the question how it is.
    """

    def __init__(self, address: str, reload_timeout_s: float, status_timeout_s: float) -> None:
        self._url = f"http://{address}/v1/config"
        self._reload_timeout_s = reload_timeout_s
        self._status_timeout_s = status_timeout_s

    async def status(self) -> Mapping[str, Told]:
        """What it says of each model.

        Raises:
            RuntimeFailure: UNAVAILABLE or DEADLINE_EXCEEDED, it does not answer as it should.
        """
        return _told(await self._ask("GET", self._url, self._status_timeout_s))

    async def reload(self) -> Mapping[str, Told]:
        """Has it read the file of models, and says what became of each.

        Raises:
            RuntimeFailure: as `status`.
        """
        try:
            return _told(await self._ask("POST", f"{self._url}/reload", self._reload_timeout_s))
        except _Refused:
            # One model that cannot be loaded makes the whole answer an error; each one's state is still to be had.
            return await self.status()

    async def _ask(self, method: str, url: str, timeout_s: float) -> Any:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            # Proxies of the environment are for the world outside the pod; so no trust_env.
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(method, url) as answer,
            ):
                body = await answer.content.read(_MAX_ANSWER_BYTES)
                status = answer.status
        except TimeoutError:
            raise RuntimeFailure(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"{method} {url} was not answered within {timeout_s:g} s"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise RuntimeFailure(grpc.StatusCode.UNAVAILABLE, f"{method} {url}: {error}") from None
        try:
            parsed = json.loads(body)
        except ValueError:
            raise RuntimeFailure(
                grpc.StatusCode.UNAVAILABLE, f"{method} {url} is answered with {status} and no JSON"
            ) from None
        if isinstance(parsed, dict) and isinstance(parsed.get("error"), str):
            raise _Refused(grpc.StatusCode.UNAVAILABLE, f"{method} {url}: {parsed['error']}")
        if status not in {200, 201}:
            raise RuntimeFailure(grpc.StatusCode.UNAVAILABLE, f"{method} {url} is answered with {status}")
        return parsed


class _Refused(RuntimeFailure):
    """The server answered with an error of its own."""


def _told(parsed: Any) -> Mapping[str, Told]:
    """Reads ``{model: {"model_version_status": [{"state", "status": {"error_code", "error_message"}}]}}``."""
    told = {}
    for name, about in parsed.items() if isinstance(parsed, dict) else ():
        versions = about.get("model_version_status") if isinstance(about, dict) else None
        versions = [version for version in versions or () if isinstance(version, dict)]
        if any(version.get("state") == _AVAILABLE for version in versions):
            told[str(name)] = Told(available=True)
            continue
        reasons = []
        for version in versions:
            status = version.get("status") or {}
            code, message = status.get("error_code", "?"), status.get("error_message", "?")
            reasons.append(f"state: '{version.get('state')}' code: '{code}' reason: '{message}'")
        told[str(name)] = Told(available=False, why="; ".join(reasons) or "it has no version")
    return told
