"""Keys that are there while this process is: a lease, kept alive, and made anew when it was lost."""

from collections.abc import Callable
from enum import Enum

from mesh.registry.store import WRITE_TIMEOUT, Store

TTL_SECONDS = 25.0
"""After so long without a sign of life the keys go, as in KServe ModelMesh."""
KEEP_ALIVE_SECONDS = 5.0
"""Time between two signs of life, as in KServe ModelMesh."""


class SessionState(Enum):
    """Whether the session's keys are in the store."""

    LOST = "lost"
    """They may be gone, by this process's own clock: before the store lets them go, never after."""
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
        raise NotImplementedError

    @property
    def state(self) -> SessionState:
        """Whether the keys are in the store; `LOST` before the first lease is granted."""

    def start(self) -> None:
        """Begins to hold a lease, in a task of its own; needs a running event loop."""

    async def wait_live(self, timeout: float | None = None) -> None:
        """Waits until the session is live. Raises TimeoutError."""

    def subscribe(self, subscriber: Callable[[SessionState], None]) -> Callable[[], None]:
        """Has a function called when the state changes; returns one that ends the subscription."""

    async def put(self, key: str, value: bytes, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Writes a key under the lease, and again whenever the lease had to be made anew.

        Where it raises, the value is remembered all the same and written as soon as that is possible.

        Raises:
            StoreUnavailable, StoreDenied, StoreRefused: see `Store`.
        """

    async def delete(self, key: str, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Deletes a key of this session and forgets it."""

    async def close(self, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Ends the lease, and with it the keys."""
