"""A stream in both directions through the data plane's HTTP/2 client, for those who read from it and write to it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
from grpc import aio

from mesh.dataplane import Talk
from mesh.instance.errors import status_from_number

Serialize = Callable[[Any], bytes] | None
Parse = Callable[[bytes], Any] | None

_CANCELLED = int(grpc.StatusCode.CANCELLED.value[0])


def failure(code: int, text: str) -> aio.AioRpcError:
    """The error of a call that ended with a status other than OK."""
    return aio.AioRpcError(status_from_number(code), aio.Metadata(), aio.Metadata(), details=text)


class Stream:
    """What a `grpc.aio.StreamStreamCall` offers to one reader and any number of writers.

    Args:
        talk: the stream, opened.
        on_cancel: called when this side ends it.
    """

    def __init__(self, talk: Talk, serialize: Serialize, parse: Parse, on_cancel: Callable[[], None]) -> None:
        self._talk: Talk | None = talk
        self._serialize = serialize
        self._parse = parse
        self._on_cancel = on_cancel
        self._heard: deque[bytes] = deque()
        self._end: tuple[int, str] | None = None
        self._cancelled = False
        self._reading: asyncio.Future[None] | None = None

    def hear(self, code: int, said: bytes | str) -> None:
        """Takes a message, or how the stream ended."""
        if isinstance(said, bytes):
            self._heard.append(said)
        else:
            self._finish(code, said)
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    async def write(self, request: Any) -> None:
        """Sends a message.

        Raises:
            asyncio.InvalidStateError: the stream has ended.
        """
        message = request if self._serialize is None else self._serialize(request)
        if self._talk is None or not self._talk.send(message):
            raise asyncio.InvalidStateError("the stream has ended")

    async def read(self) -> Any:
        """Waits for the next message; `grpc.aio.EOF` at the end. A read that is cancelled cancels the stream.

        Raises:
            grpc.aio.AioRpcError: the stream ended with a status other than OK.
            asyncio.CancelledError: it was cancelled.
        """
        while not self._heard:
            if self._cancelled:
                raise asyncio.CancelledError
            if self._end is not None:
                code, text = self._end
                if code:
                    raise failure(code, text)
                return aio.EOF
            self._reading = asyncio.get_running_loop().create_future()
            try:
                await self._reading
            except asyncio.CancelledError:
                self.cancel()
                raise
        reply = self._heard.popleft()
        return reply if self._parse is None else self._parse(reply)

    def cancel(self) -> bool:
        """Ends the stream; returns whether it had not ended."""
        if self._end is not None:
            return False
        self._cancelled = True
        self._heard.clear()
        self._finish(_CANCELLED, "cancelled")
        self._on_cancel()
        if self._reading is not None:
            self._reading.cancel()
        return True

    async def code(self) -> grpc.StatusCode:
        """The status that the stream ended with; UNKNOWN before."""
        return grpc.StatusCode.UNKNOWN if self._end is None else status_from_number(self._end[0])

    async def details(self) -> str:
        """The message of that status."""
        return "" if self._end is None else self._end[1]

    def _finish(self, code: int, text: str) -> None:
        self._end = (code, text)
        self._talk = None
