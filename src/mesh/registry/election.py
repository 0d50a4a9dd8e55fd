"""Which instance is the leader: the candidate whose key was created first, as in KServe ModelMesh."""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from mesh.registry.codecs import Codec
from mesh.registry.keys import Keys
from mesh.registry.mirror import Mirror
from mesh.registry.session import Session, SessionState
from mesh.registry.store import Entry, Store

log = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """One that stands for election.

    Attributes:
        created: revision of its key's creation; the lowest one leads.
        lease: its session's.
    """

    created: int
    lease: int


class _CandidateCodec(Codec[Candidate]):
    def decode(self, entry: Entry) -> Candidate:
        return Candidate(entry.create_revision, entry.lease)

    def encode(self, record: Candidate) -> bytes:
        raise NotImplementedError("a candidate's key is written by its session")


class Election:
    """One instance's candidacy.

    It leads only while its own clock says that its session cannot have ended, so there are never two leaders,
    but for a process that was frozen and has not run its timers yet.

    Args:
        store: that holds the candidates.
        session: whose end is the candidacy's end.
        keys: of the service.
        instance_id: this instance.
    """

    def __init__(self, store: Store, session: Session, keys: Keys, instance_id: str) -> None:
        self._session = session
        self._name = f"_{instance_id}"
        self._key = keys.candidates + self._name
        self._candidates = Mirror(store, keys.candidates, _CandidateCodec())
        self._leading = False
        self._standing = False
        self._changed = asyncio.Event()
        self._subscribers: tuple[Callable[[bool], None], ...] = ()
        self._endings: list[Callable[[], None]] = []
        self._candidates.on_listed(self._decide)

    def start(self) -> None:
        """Follows the election; needs a running event loop. Stand for it with `stand`."""
        self._endings = [
            self._session.subscribe(self._on_session),
            self._candidates.subscribe(self._on_candidate),
        ]
        self._candidates.start()

    async def stand(self) -> None:
        """Stands as a candidate.

        Raises:
            StoreUnavailable: the candidacy is remembered and written as soon as that is possible.
        """
        self._standing = True
        await self._session.put(self._key, self._name.encode())

    @property
    def leading(self) -> bool:
        """Whether this instance is the leader."""
        return self._leading

    @property
    def leader(self) -> str | None:
        """Id of the leading instance as far as is known, None where there is none."""
        name = min(self._candidates, key=lambda name: self._candidates[name].created, default=None)
        return None if name is None else name.removeprefix("_")

    def subscribe(self, subscriber: Callable[[bool], None]) -> Callable[[], None]:
        """Has a function called with `leading` whenever it changes; returns one that ends it."""
        self._subscribers = (*self._subscribers, subscriber)

        def end() -> None:
            self._subscribers = tuple(other for other in self._subscribers if other is not subscriber)

        return end

    async def wait(self, leading: bool, timeout: float | None = None) -> None:
        """Waits until `leading` is as given.

        Raises:
            TimeoutError: it is not after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while self._leading is not leading:
                await self._changed.wait()

    async def close(self) -> None:
        """Steps down.

        Raises:
            StoreUnavailable, OutcomeUnknown, StoreDenied: the candidacy ends with the session then.
        """
        for end in self._endings:
            end()
        stood, self._standing = self._standing, False
        self._set(False)
        await self._candidates.close()
        if stood:
            await self._session.delete(self._key)

    def _on_session(self, state: SessionState) -> None:
        self._decide()

    def _on_candidate(self, name: str, before: Candidate | None, after: Candidate | None) -> None:
        if name == self._name and after is None and self._standing:
            self._session.restore(self._key)
        self._decide()

    def _decide(self) -> None:
        own = self._candidates.get(self._name)
        # A listing tells of candidates in the order of their names: one that came before may still follow.
        # Who leads already need not fear that, since whoever comes later is behind.
        self._set(
            (self._leading or not self._candidates.listing)
            and self._standing
            and own is not None
            and own.lease == self._session.lease
            and self._session.state is SessionState.LIVE
            and all(own.created <= other.created for other in self._candidates.values())
        )

    def _set(self, leading: bool) -> None:
        if leading is self._leading:
            return
        self._leading = leading
        log.info("this instance %s", "leads" if leading else "leads no longer")
        self._changed.set()
        self._changed = asyncio.Event()
        for subscriber in self._subscribers:
            try:
                subscriber(leading)
            except Exception:
                log.exception("a subscriber of the election failed")
