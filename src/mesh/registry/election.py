"""Which instance is the leader: the candidate whose key was created first, as in KServe ModelMesh."""

from collections.abc import Callable

from mesh.registry.keys import Keys
from mesh.registry.session import Session
from mesh.registry.store import Store


class Election:
    """One instance's candidacy.

    Args:
        store: that holds the candidates.
        session: whose end is the candidacy's end.
        keys: of the service.
        instance_id: this instance.
    """

    def __init__(self, store: Store, session: Session, keys: Keys, instance_id: str) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        """Stands as a candidate; needs a running event loop."""

    @property
    def leading(self) -> bool:
        """Whether this instance is the leader."""

    @property
    def leader(self) -> str | None:
        """Id of the leading instance as far as is known, None where there is none."""

    def subscribe(self, subscriber: Callable[[bool], None]) -> Callable[[], None]:
        """Has a function called with `leading` whenever it changes; returns one that ends it."""

    async def wait(self, leading: bool, timeout: float | None = None) -> None:
        """Waits until `leading` is as given. Raises TimeoutError."""

    async def close(self) -> None:
        """Steps down."""
