"""Transactions that wait at the same moment go to etcd as one.

A transaction costs etcd a write to disk, and this process a call, however little it changes. While some are on
their way, those that come meanwhile are gathered and sent together; one that comes alone is not delayed.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from mesh.registry.errors import LeaseGone, RegistryError, StoreRefused, StoreUnavailable
from mesh.registry.store import Delete, Outcome, Put

MAX_KEYS = 60
"""Keys in one group: etcd takes 128 comparisons, and as many operations, in a transaction."""
AT_ONCE = 2
"""Transactions on their way before others are gathered."""

Send = Callable[[Mapping[str, int], Sequence[Put | Delete], float], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True, eq=False)
class _Transaction:
    expected: Mapping[str, int]
    operations: Sequence[Put | Delete]
    deadline: float
    done: asyncio.Future[Outcome]

    @property
    def keys(self) -> set[str]:
        return {*self.expected, *(operation.key for operation in self.operations)}

    def refusal(self, outcome: Outcome) -> Outcome | None:
        """What a group's failure means for this one of it: None where it is not to blame."""
        entries = {key: outcome.entries[key] for key in self.expected}
        holds = all(
            (entry.mod_revision if (entry := entries[key]) else 0) == revision
            for key, revision in self.expected.items()
        )
        return None if holds else Outcome(False, outcome.revision, entries)


class Groups:
    """Sends transactions, together where that saves something.

    Each still holds or fails by itself: where a group fails, those of it whose comparisons held are sent again.

    Args:
        send: sends one transaction; takes comparisons, operations and seconds.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[_Transaction] = deque()
        self._sending = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def transact(
        self, expected: Mapping[str, int], operations: Sequence[Put | Delete], timeout: float
    ) -> Outcome:
        """As `Store.transact`."""
        # What writes several keys, or only reads, goes alone: it is rare, and would fail the rest more often.
        if self._sending < AT_ONCE or len(operations) != 1:
            self._sending += 1
            try:
                return await self._send(expected, operations, timeout)
            finally:
                self._sending -= 1
                self._send_waiting()
        loop = asyncio.get_running_loop()
        transaction = _Transaction(expected, operations, loop.time() + timeout, loop.create_future())
        # Nobody may be left to hear of a failure.
        transaction.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting.append(transaction)
        # A group takes no longer than its members have left; this bounds the wait for its turn.
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(transaction.done)
        except TimeoutError:
            if transaction not in self._waiting:
                return await transaction.done
            self._waiting.remove(transaction)
            raise StoreUnavailable(
                f"earlier writes to etcd took more than {timeout:g} s: check that it is up and its disk is fast"
            ) from None

    def _send_waiting(self) -> None:
        while self._waiting and self._sending < AT_ONCE:
            self._sending += 1
            task = asyncio.get_running_loop().create_task(self._send_group(self._take()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[_Transaction]:
        """The next group: in order of arrival, no key twice."""
        group: list[_Transaction] = []
        keys: set[str] = set()
        left: deque[_Transaction] = deque()
        while self._waiting and len(keys) < MAX_KEYS:
            transaction = self._waiting.popleft()
            if keys.isdisjoint(transaction.keys):
                group.append(transaction)
                keys |= transaction.keys
            else:
                left.append(transaction)
        self._waiting.extendleft(reversed(left))
        return group

    async def _send_group(self, group: list[_Transaction]) -> None:
        try:
            while group:
                group = await self._try(group)
        finally:
            self._sending -= 1
            self._send_waiting()

    async def _try(self, group: list[_Transaction]) -> list[_Transaction]:
        """Sends a group once; returns those of it that are to be sent again."""
        left = max(transaction.deadline for transaction in group) - asyncio.get_running_loop().time()
        expected = {key: revision for one in group for key, revision in one.expected.items()}
        operations = [operation for one in group for operation in one.operations]
        try:
            outcome = await self._send(expected, operations, max(0.001, left))
        except (LeaseGone, StoreRefused) as error:
            if len(group) == 1:
                _fail(group, error)
            else:
                # One of them is at fault: each gets its own answer.
                for transaction in group:
                    await self._try([transaction])
            return []
        except RegistryError as error:
            _fail(group, error)
            return []
        except asyncio.CancelledError:
            _fail(group, StoreUnavailable("the client of etcd was closed"))
            raise
        again = []
        for transaction in group:
            refusal = None if outcome.committed else transaction.refusal(outcome)
            if outcome.committed or refusal is not None:
                if not transaction.done.done():
                    transaction.done.set_result(refusal or outcome)
            else:
                again.append(transaction)
        return again

    async def close(self) -> None:
        """Ends what is on its way; what waits is refused."""
        _fail(self._waiting, StoreUnavailable("the client of etcd was closed"))
        self._waiting.clear()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _fail(group: Sequence[_Transaction] | deque[_Transaction], error: RegistryError) -> None:
    for transaction in group:
        if not transaction.done.done():
            transaction.done.set_exception(error)
