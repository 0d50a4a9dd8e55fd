"""Keeping leases alive, all of a client's over one stream."""

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio

from mesh.protos import etcd_rpc_pb2 as rpc
from mesh.registry.errors import LeaseGone, StoreDenied, StoreUnavailable
from mesh.registry.etcd_calls import Meaning, Token, meaning_of
from mesh.registry.etcd_members import Member, Members


class KeepAlives:
    """The stream of signs of life; it is opened when one is due and there is none."""

    def __init__(self, members: Members, token: Token) -> None:
        self._members = members
        self._token = token
        self._stream: Any = None
        self._member: Member | None = None
        self._reader: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._waiting: dict[int, list[asyncio.Future[int]]] = {}

    async def beat(self, lease: int, timeout: float) -> None:
        """Sends a sign of life and waits for the answer.

        Raises:
            LeaseGone: the lease has ended.
            StoreUnavailable: no answer within `timeout` seconds.
            StoreDenied: the password is wrong.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        answer: asyncio.Future[int] = loop.create_future()
        try:
            async with asyncio.timeout_at(deadline):
                async with self._sending:
                    stream = await self._open(deadline)
                    self._waiting.setdefault(lease, []).append(answer)
                    await stream.write(rpc.LeaseKeepAliveRequest(ID=lease))
                left = await answer
        except TimeoutError:
            self._break()
            raise StoreUnavailable(
                f"etcd at {self._members.description} did not answer a sign of life within {timeout:g} s"
            ) from None
        except grpc.aio.AioRpcError as error:
            self._break()
            raise StoreUnavailable(
                f"etcd at {self._members.description}: {error.details()}: check that it is up"
            ) from error
        except asyncio.InvalidStateError as error:
            self._break()
            raise StoreUnavailable(f"the stream of signs of life has ended: {error}") from error
        finally:
            with contextlib.suppress(KeyError, ValueError):
                self._waiting[lease].remove(answer)
        if left <= 0:
            raise LeaseGone(f"lease {lease:x} has ended")

    async def close(self) -> None:
        """Ends the stream."""
        reader = self._reader
        self._break()
        if reader is not None:
            await asyncio.gather(reader, return_exceptions=True)

    async def _open(self, deadline: float) -> Any:
        if self._stream is None:
            member = self._members.ready() or await self._members.connect(deadline)
            metadata = await self._token.metadata(member)
            self._stream = member.leases.LeaseKeepAlive(metadata=metadata)
            self._member = member
            self._reader = asyncio.create_task(self._read(self._stream), name="etcd keep-alive")
        return self._stream

    async def _read(self, stream: Any) -> None:
        failure: Exception = StoreUnavailable(f"etcd at {self._members.description} ended the signs of life")
        try:
            while (response := await stream.read()) is not grpc.aio.EOF:
                for answer in self._waiting.pop(response.ID, []):
                    if not answer.done():
                        answer.set_result(response.TTL)
        except grpc.aio.AioRpcError as error:
            if meaning_of(error) is Meaning.TOKEN:
                self._token.forget()
            failure = (
                StoreDenied(f"etcd refuses signs of life: {error.details()}")
                if error.code() is grpc.StatusCode.PERMISSION_DENIED
                else StoreUnavailable(f"etcd at {self._members.description}: {error.details()}")
            )
        finally:
            if self._stream is stream:
                self._forget(failure)

    def _break(self) -> None:
        """Gives the stream up, and its member a place behind the others."""
        if self._stream is None:
            return
        if self._member is not None:
            self._members.fail(self._member)
        stream = self._stream
        self._forget(StoreUnavailable("the stream of signs of life was given up"))
        stream.cancel()

    def _forget(self, failure: Exception) -> None:
        self._stream = self._member = self._reader = None
        waiting, self._waiting = self._waiting, {}
        for answers in waiting.values():
            for answer in answers:
                if not answer.done():
                    answer.set_exception(failure)
