"""Of several controllers one leads; the others wait for its Lease to end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

_log = logging.getLogger(__name__)

#: Name of the Lease, as in KServe ModelMesh.
LOCK = "modelmesh-controller-leader-lock"


class _DeadlineLock(LeaseLock):
    """A lock whose calls end: a server that does not answer must not let a leader believe that it leads on."""

    def __init__(
        self, name: str, namespace: str, identity: str, client: ApiClient, deadline_s: float
    ) -> None:
        super().__init__(name, namespace, identity, client)
        self._deadline_s = deadline_s

    async def get(
        self, name: str, namespace: str
    ) -> tuple[bool, LeaderElectionRecord] | tuple[bool, Exception] | tuple[bool, None]:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await super().get(name, namespace)
        except (aiohttp.ClientError, OSError) as problem:
            return False, ApiException(status=0, reason=f"the Kubernetes API cannot be reached: {problem!r}")

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        return await self._ended(super().create(name, namespace, election_record))

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        return await self._ended(super().update(name, namespace, updated_record))

    async def _ended(self, call: Awaitable[bool]) -> bool:
        try:
            async with asyncio.timeout(self._deadline_s):
                return bool(await call)
        except (aiohttp.ClientError, OSError) as problem:
            _log.warning("cannot write the Lease: %r", problem)
            return False


async def lead(
    client: ApiClient,
    namespace: str,
    identity: str,
    work: Callable[[], Coroutine[Any, Any, None]],
    *,
    lease_s: float,
    renew_deadline_s: float,
    retry_s: float,
) -> None:
    """Waits until this controller leads, and works until it does not any more.

    Args:
        client: of the cluster.
        namespace: of the Lease.
        identity: of this controller, unlike any other's.
        work: ended by cancellation.
        lease_s: after which another may lead, once the Lease is not renewed.
        renew_deadline_s: after which this controller gives up leading.
        retry_s: between attempts.
    """
    lock = _DeadlineLock(LOCK, namespace, identity, client, deadline_s=retry_s)

    async def started() -> None:
        _log.info("this controller leads: %s", identity)
        await work()

    async def stopped() -> None:
        _log.error(
            "the Lease %s could not be renewed for %s s: this controller does not lead any more",
            LOCK,
            renew_deadline_s,
        )

    config = Config(
        lock, lease_s, renew_deadline_s, retry_s, onstarted_leading=started, onstopped_leading=stopped
    )
    await LeaderElection(config).run()
