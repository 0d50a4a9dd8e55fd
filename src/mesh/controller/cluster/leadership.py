"""Of several controllers one leads; the others wait until its Lease ends.

As in client-go: clocks of different machines are not compared. A candidate counts from when it saw the Lease change.
The official client's own election cannot create a Lease in its present release (37.0.2), and has no deadlines.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mesh.controller.cluster.api import Cluster, ClusterError, Object
from mesh.controller.cluster.kinds import LEASES

_log = logging.getLogger(__name__)

#: Name of the Lease, as in KServe ModelMesh.
LOCK = "modelmesh-controller-leader-lock"


@dataclass(frozen=True, slots=True)
class Terms:
    """Times of an election.

    Attributes:
        lease_s: after which another may lead, once the Lease is not renewed.
        renew_deadline_s: after which one that cannot renew it stops leading; less than ``lease_s``.
        retry_s: between attempts; less than ``renew_deadline_s``.
    """

    lease_s: float
    renew_deadline_s: float
    retry_s: float


class Candidate:
    """Who would lead, as far as the Lease says; no clock of its own.

    Args:
        identity: of this controller, unlike any other's.
        lease_s: that it asks for.
    """

    def __init__(self, identity: str, lease_s: float) -> None:
        self._identity = identity
        self._lease_s = lease_s
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0

    def may_take(self, lease: Object | None, now: float) -> bool:
        """Whether the Lease is free, this candidate's own, or was not renewed for as long as it says.

        Args:
            lease: as it is; None where there is none.
            now: of a clock that never goes back, seconds.
        """
        spec = {} if lease is None else lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder in {"", self._identity}:
            return True
        seen = holder, str(spec.get("renewTime"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
            return False
        return now - self._seen_at > float(spec.get("leaseDurationSeconds") or self._lease_s)

    def taken(self, lease: Object | None, namespace: str, wall: datetime) -> Object:
        """The Lease as this candidate writes it when it leads, or goes on leading."""
        before = {} if lease is None else lease.get("spec") or {}
        again = before.get("holderIdentity") == self._identity
        now = wall.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata = {"name": LOCK, "namespace": namespace} if lease is None else lease["metadata"]
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": math.ceil(self._lease_s),
                "acquireTime": before.get("acquireTime") if again else now,
                "renewTime": now,
                "leaseTransitions": int(before.get("leaseTransitions") or 0)
                + (lease is not None and not again),
            },
        }


async def lead(
    cluster: Cluster,
    namespace: str,
    identity: str,
    terms: Terms,
    work: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Waits until this controller leads, and works until it does not any more, or the work ends.

    A controller that is cancelled gives the Lease back, so that the next one need not wait.

    Args:
        cluster: with the Lease.
        namespace: of the Lease.
        identity: of this controller, unlike any other's.
        terms: of the election.
        work: cancelled when this controller leads no more.
    """
    candidate = Candidate(identity, terms.lease_s)
    while not await _try(cluster, namespace, candidate, terms.retry_s):  # noqa: ASYNC110 - the API is asked
        await asyncio.sleep(terms.retry_s)
    _log.info("this controller leads: %s", identity)
    working = asyncio.ensure_future(work())
    renewed = time.monotonic()
    try:
        while not working.done():
            await asyncio.wait([working], timeout=terms.retry_s)
            if await _try(cluster, namespace, candidate, terms.retry_s):
                renewed = time.monotonic()
            elif time.monotonic() - renewed > terms.renew_deadline_s:
                _log.error("Lease %s was not renewed for %s s", LOCK, terms.renew_deadline_s)
                return
        await working
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(working, return_exceptions=True)
        await _give_back(cluster, namespace, identity)


async def _try(cluster: Cluster, namespace: str, candidate: Candidate, deadline_s: float) -> bool:
    try:
        async with asyncio.timeout(deadline_s):
            lease = await _read(cluster, namespace)
            if not candidate.may_take(lease, time.monotonic()):
                return False
            taken = candidate.taken(lease, namespace, datetime.now(UTC))
            if lease is None:
                await cluster.create(LEASES, taken)
            else:
                await cluster.replace(LEASES, taken)
            return True
    except (ClusterError, TimeoutError) as problem:
        if not (isinstance(problem, ClusterError) and problem.conflicts):
            _log.warning("cannot take Lease %s: %s", LOCK, problem or "the Kubernetes API does not answer")
        return False


async def _read(cluster: Cluster, namespace: str) -> Object | None:
    try:
        return await cluster.get(LEASES, namespace, LOCK)
    except ClusterError as problem:
        if problem.missing:
            return None
        raise


async def _give_back(cluster: Cluster, namespace: str, identity: str) -> None:
    with contextlib.suppress(ClusterError, TimeoutError):
        async with asyncio.timeout(2):
            lease = await _read(cluster, namespace)
            if lease is not None and (lease.get("spec") or {}).get("holderIdentity") == identity:
                await cluster.replace(LEASES, {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
