"""Keys that are there while this process is: a lease, kept alive, and made anew when it was lost."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from enum import Enum

from mesh.registry.backoff import pause_before
from mesh.registry.errors import LeaseGone, RegistryError, StoreRefused, StoreUnavailable
from mesh.registry.store import WRITE_TIMEOUT, Store

log = logging.getLogger(__name__)

TTL_SECONDS = 25.0
"""After so long without a sign of life the keys go, as in KServe ModelMesh."""
KEEP_ALIVE_SECONDS = 5.0
"""Time between two signs of life, as in KServe ModelMesh."""


class SessionState(Enum):
    """Whether the session's keys are in the store."""

    LOST = "lost"
    """They may be gone, by this process's own clock: told before the store lets them go, never after."""
    LIVE = "live"
    """They are there."""


class Session:
    """One lease and the keys under it.

    Args:
        store: that holds them.
        ttl: seconds after which the keys go when this process falls silent.
        keep_alive_every: seconds between two signs of life.
    """

    def __init__(
        self, store: Store, *, ttl: float = TTL_SECONDS, keep_alive_every: float = KEEP_ALIVE_SECONDS
    ) -> None:
        self._store = store
        self._ttl = ttl
        self._every = keep_alive_every
        self._lease = 0
        self._state = SessionState.LOST
        self._wanted: dict[str, bytes] = {}
        self._written: dict[str, bytes] = {}
        self._writing = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._live = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self._subscribers: tuple[Callable[[SessionState], None], ...] = ()
        self._trouble = "not started"
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> SessionState:
        """Whether the keys are in the store; `LOST` before the first lease is granted."""
        return self._state

    @property
    def lease(self) -> int:
        """Id of the lease, 0 while there is none."""
        return self._lease

    def start(self) -> None:
        """Begins to hold a lease, in a task of its own; needs a running event loop."""
        if self._task is None:
            self._trouble = "the first lease is being asked for"
            self._task = asyncio.create_task(self._run(), name="session")

    async def wait_live(self, timeout: float | None = None) -> None:
        """Waits until the session is live.

        Raises:
            TimeoutError: it is not after `timeout` seconds; the text says what stands against it.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._live.wait()
        except TimeoutError:
            raise TimeoutError(f"there is no session after {timeout} s: {self._trouble}") from None

    def subscribe(self, subscriber: Callable[[SessionState], None]) -> Callable[[], None]:
        """Has a function called when the state changes; returns one that ends the subscription."""
        self._subscribers = (*self._subscribers, subscriber)

        def end() -> None:
            self._subscribers = tuple(other for other in self._subscribers if other is not subscriber)

        return end

    async def put(self, key: str, value: bytes, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Writes a key under the lease, and again whenever the lease had to be made anew.

        Raises:
            StoreUnavailable, OutcomeUnknown, StoreDenied: see `Store`; the value is remembered all the same
                and written as soon as that is possible.
            StoreRefused: the store will never take this key and value; they are forgotten.
        """
        self._wanted[key] = value
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self._live.wait()
        except TimeoutError:
            raise StoreUnavailable(f"{key} waits until the session is live: {self._trouble}") from None
        try:
            await self._write(key, max(0.001, deadline - asyncio.get_running_loop().time()))
        except StoreRefused:
            self._wanted.pop(key, None)
            raise
        except LeaseGone as error:
            self._lose_lease(error)
            raise StoreUnavailable(f"{key} waits for a new lease: {error}") from error
        except RegistryError:
            self._hurry.set()
            raise

    async def delete(self, key: str, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Deletes a key of this session and forgets it.

        Raises:
            StoreUnavailable, OutcomeUnknown, StoreDenied: see `Store`; the key goes with the lease then.
        """
        async with self._writing:
            self._wanted.pop(key, None)
            self._written.pop(key, None)
            await self._store.delete(key, timeout=timeout)

    def restore(self, key: str) -> None:
        """Has a key of this session written again, since somebody else has deleted it."""
        if self._written.pop(key, None) is not None:
            self._hurry.set()

    async def close(self, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Ends the lease, and with it the keys; where the store is away they go when their time is up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        lease, self._lease = self._lease, 0
        self._set_state(SessionState.LOST)
        if lease:
            try:
                await self._store.revoke(lease, timeout=timeout)
            except RegistryError as error:
                log.warning("the session's keys stay up to %s s: %s", self._ttl, error)

    async def _run(self) -> None:
        failures = 0
        while True:
            self._hurry.clear()
            try:
                await self._beat()
                failures = 0
                pause = self._every
            except LeaseGone as error:
                self._lose_lease(error)
                continue
            except RegistryError as error:
                if not failures:
                    log.warning("the session is in danger: %s", error)
                self._trouble = str(error)
                failures += 1
                pause = pause_before(failures, longest=self._every)
            except Exception as error:
                log.exception("the session failed and tries again")
                self._trouble = repr(error)
                failures += 1
                pause = pause_before(failures, longest=self._every)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()

    async def _beat(self) -> None:
        """Shows a sign of life, and writes what is not written yet."""
        sent = asyncio.get_running_loop().time()
        timeout = min(WRITE_TIMEOUT, self._ttl / 3)
        if self._lease:
            await self._store.keep_alive(self._lease, timeout=timeout)
        else:
            self._lease = await self._store.grant(self._ttl, timeout=timeout)
            self._written.clear()
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_at(sent + self._ttl, self._expire)
        for key in list(self._wanted):
            await self._write(key, timeout)
        self._set_state(SessionState.LIVE)

    async def _write(self, key: str, timeout: float) -> None:
        async with self._writing:
            value = self._wanted.get(key)
            if value is None or self._written.get(key) == value:
                return
            lease = self._lease
            if not lease:
                raise LeaseGone("there is no lease at the moment")
            await self._store.put(key, value, lease=lease, timeout=timeout)
            if lease == self._lease:
                self._written[key] = value

    def _lose_lease(self, error: LeaseGone) -> None:
        log.warning("the session lost its lease and asks for another: %s", error)
        self._trouble = str(error)
        self._lease = 0
        self._written.clear()
        self._set_state(SessionState.LOST)
        self._hurry.set()

    def _expire(self) -> None:
        self._trouble = f"the store has not answered for {self._ttl} s: {self._trouble}"
        self._set_state(SessionState.LOST)

    def _set_state(self, state: SessionState) -> None:
        if state is SessionState.LIVE:
            self._live.set()
        else:
            self._live.clear()
            if self._expiry is not None:
                self._expiry.cancel()
        if state is self._state:
            return
        self._state = state
        log.info("the session is %s", state.value)
        for subscriber in self._subscribers:
            try:
                subscriber(state)
            except Exception:
                log.exception("a subscriber of the session failed")
