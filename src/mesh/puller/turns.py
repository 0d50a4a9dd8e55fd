"""One at a time for each name, in the order of asking."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turn:
    """A place in the queue of one name; whoever took it must `end` it, come or not."""

    def __init__(self, before: "asyncio.Future[None] | None", done: "asyncio.Future[None]") -> None:
        self._before = before
        self._done = done

    async def come(self) -> None:
        """Waits until all earlier turns have ended."""
        if self._before is not None and not self._before.done():
            # wait() leaves the other's future alone where this caller is cancelled.
            await asyncio.wait([self._before])

    def end(self) -> None:
        """Lets the next one in; where this turn has not come yet, as soon as it would."""
        if self._done.done():
            return
        if self._before is None or self._before.done():
            self._done.set_result(None)
        else:
            self._before.add_done_callback(lambda _: self.end())


class Turns:
    """Queues, one for each name; names that nobody asks for take no memory."""

    def __init__(self) -> None:
        self._last: dict[str, asyncio.Future[None]] = {}

    def take(self, name: str) -> Turn:
        """Takes the next turn of a name; the order of calls is the order of turns."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        before = self._last.get(name)
        self._last[name] = done
        done.add_done_callback(lambda _: self._forget(name, done))
        return Turn(before, done)

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Holds a turn of a name; it is taken when the block is entered."""
        turn = self.take(name)
        try:
            await turn.come()
            yield
        finally:
            turn.end()

    def _forget(self, name: str, done: "asyncio.Future[None]") -> None:
        if self._last.get(name) is done:
            del self._last[name]
