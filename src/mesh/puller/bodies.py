"""The content of an object on its way to the disk."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore import Bytes, BytesStream


class Body:
    """A part of a file, and what is to be in it.

    Args:
        chunks: the content; may block while nothing comes.
        target: the file; its directories are made, and what other bodies have written into it stays.
        start: offset of the first byte in it.
        size: bytes to be written; what comes beyond is counted but would overwrite another body's.
        advance: told of bytes that were written.
        hashed: also hashes what is written.
    """

    def __init__(
        self,
        chunks: "Iterable[Bytes] | BytesStream",
        target: Path,
        start: int,
        size: int,
        advance: Callable[[int], None],
        *,
        hashed: bool = False,
    ) -> None:
        self._chunks = chunks
        self._target = target
        self._at = start
        self._end = start + size
        self._advance = advance
        # Against accidents on the way; the tags of object stores are of this kind.
        self._hash = hashlib.md5(usedforsecurity=False) if hashed else None
        self._writing = threading.Lock()
        self._given_up = threading.Event()

    @property
    def md5(self) -> str:
        """Of what was written; empty where it was not to be hashed."""
        return self._hash.hexdigest() if self._hash is not None else ""

    def write(self) -> None:
        """Writes all of it; blocks.

        Raises:
            OSError: the disk refused.
        """
        with self._writing:
            if self._given_up.is_set():
                return
            self._target.parent.mkdir(parents=True, exist_ok=True)
            output = os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            for chunk in self._chunks:
                with self._writing:
                    if self._given_up.is_set():
                        return
                    self._put(output, memoryview(chunk))
        finally:
            os.close(output)

    def give_up(self) -> None:
        """Nothing is written any more once this has returned; blocks while something is."""
        with self._writing:
            self._given_up.set()

    async def arrive(self) -> None:
        """Writes all of it in a thread of its own; whoever is cancelled meanwhile is to `give_up`.

        One thread that reads and writes in turn takes half the CPU of an event loop that has each chunk read by one
        thread and written by another.

        Raises:
            Exception: what the chunks raise.
            OSError: the disk refused.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def end(error: BaseException | None) -> None:
            if ended.done():
                return
            if error is None:
                ended.set_result(None)
            else:
                ended.set_exception(error)

        def work() -> None:
            raised: BaseException | None = None
            try:
                self.write()
            except BaseException as error:  # noqa: BLE001 - whoever awaits it gets it
                raised = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(end, raised)

        # A daemon: while a store sends nothing, its thread must not keep the process from ending.
        threading.Thread(target=work, name="pull body", daemon=True).start()
        await ended

    def _put(self, output: int, chunk: memoryview) -> None:
        if self._hash is not None:
            self._hash.update(chunk)
        left = chunk[: self._end - self._at]
        while left:
            written = os.pwrite(output, left, self._at)
            self._at += written
            left = left[written:]
        self._advance(len(chunk))
