"""Calls to etcd: which member, with which token, and what an error means."""

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

import grpc
import grpc.aio
from grpc import StatusCode

from mesh.protos import etcd_rpc_pb2 as rpc
from mesh.registry.backoff import pause_before
from mesh.registry.connection import EtcdConnection
from mesh.registry.errors import (
    Compacted,
    LeaseGone,
    OutcomeUnknown,
    RegistryError,
    StoreDenied,
    StoreRefused,
    StoreUnavailable,
)
from mesh.registry.etcd_members import Member, Members

log = logging.getLogger(__name__)

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Metadata = tuple[tuple[str, str], ...]

# A member without a leader is to say so instead of waiting for one.
_NEEDS_LEADER: Metadata = (("hasleader", "true"),)
_AUTHENTICATE_SECONDS = 3.5
_MAX_RENEWALS = 2


class Meaning(Enum):
    """What an error of a call says."""

    TOKEN = "no valid token"  # noqa: S105
    """The token is not, or no longer, valid; nothing was done."""
    NOT_DONE = "not done"
    """This member could not take the request; nothing was done."""
    UNKNOWN = "unknown"
    """No answer; a write may have been done."""
    FINAL = "final"
    """An answer, and a no."""


def meaning_of(error: grpc.aio.AioRpcError) -> Meaning:
    """Tells what an error says; etcd puts some of it into the text alone."""
    code = error.code()
    details = error.details() or ""
    if code is StatusCode.UNAUTHENTICATED or "revision of auth store is old" in details:
        return Meaning.TOKEN
    if code is StatusCode.INVALID_ARGUMENT and "user name is empty" in details:
        return Meaning.TOKEN
    if code is StatusCode.UNAVAILABLE:
        not_done = ("failed to connect", "no leader", "not connected")
        return Meaning.NOT_DONE if any(text in details.lower() for text in not_done) else Meaning.UNKNOWN
    if code is StatusCode.RESOURCE_EXHAUSTED and "too many requests" in details:
        return Meaning.NOT_DONE
    if code in {
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        StatusCode.INTERNAL,
        StatusCode.ABORTED,
        StatusCode.UNKNOWN,
    }:
        return Meaning.UNKNOWN
    return Meaning.FINAL


def final_error(error: grpc.aio.AioRpcError, member: Member) -> RegistryError:
    """Returns what to raise for an error whose meaning is `FINAL`."""
    code = error.code()
    details = error.details() or ""
    text = f"etcd at {member.endpoint}: {details}"
    if code is StatusCode.OUT_OF_RANGE and "compacted" in details:
        return Compacted(f"{text}: list again")
    if code is StatusCode.NOT_FOUND and "lease" in details:
        return LeaseGone(text)
    if code is StatusCode.PERMISSION_DENIED or "authentication failed" in details:
        return StoreDenied(f"{text}: check the user, its password and the roles it has")
    return StoreRefused(f"{text} ({code.name})")


class Token:
    """The token that stands for user and password, asked for when it is needed and again when it is refused."""

    def __init__(self, connection: EtcdConnection) -> None:
        self._user = connection.user
        self._password = connection.password
        self._metadata: Metadata | None = _NEEDS_LEADER if self._user is None else None
        self._asking = asyncio.Lock()

    @property
    def renewable(self) -> bool:
        """Whether another token can be asked for."""
        return self._user is not None

    async def metadata(self, member: Member) -> Metadata:
        """Returns what to send along with each call, asking the member for a token where there is none.

        Raises:
            StoreDenied: the password is wrong.
            grpc.aio.AioRpcError: the member could not tell.
        """
        if self._metadata is not None:
            return self._metadata
        async with self._asking:
            if self._metadata is None:
                self._metadata = (*_NEEDS_LEADER, *await self._ask(member))
            return self._metadata

    def refuse(self, metadata: Metadata) -> None:
        """Takes in that what was sent along is not accepted any more."""
        if self._metadata is metadata:
            self.forget()

    def forget(self) -> None:
        """Has another token asked for before the next call."""
        if self.renewable:
            self._metadata = None

    async def _ask(self, member: Member) -> Metadata:
        request = rpc.AuthenticateRequest(name=self._user or "", password=self._password or "")
        try:
            answer = await member.auth.Authenticate(request, timeout=_AUTHENTICATE_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is StatusCode.FAILED_PRECONDITION:
                log.warning("etcd at %s asks for no password, although one is configured", member.endpoint)
                return ()
            if meaning_of(error) is Meaning.FINAL:
                raise final_error(error, member) from error
            raise
        return (("token", answer.token),)


class Calls:
    """Unary calls with a deadline, that go to another member where this does no harm.

    Args:
        members: of the cluster.
        token: for the metadata.
    """

    def __init__(self, members: Members, token: Token) -> None:
        self._members = members
        self._token = token

    async def __call__(
        self,
        method: "Callable[[Member], grpc.aio.UnaryUnaryMultiCallable[Request, Answer]]",
        request: Request,
        timeout: float,
        *,
        idempotent: bool,
    ) -> Answer:
        """Makes a call.

        Args:
            method: picks it from a member's stubs.
            request: its message.
            timeout: seconds for all tries together.
            idempotent: whether to try again after an error that leaves open whether it was done.

        Raises:
            StoreUnavailable: no answer in time, and nothing was done, or it does not matter.
            OutcomeUnknown: not idempotent, and it may have been done.
            Compacted, LeaseGone, StoreDenied, StoreRefused: as etcd says.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        renewals = 0
        attempt = 0
        while True:
            member = self._members.ready() or await self._members.connect(deadline)
            metadata: Metadata | None = None
            try:
                metadata = await self._token.metadata(member)
                return await method(member)(
                    request, timeout=max(0.001, deadline - loop.time()), metadata=metadata
                )
            except asyncio.CancelledError:
                # Closing the channel cancels its calls, which is no cancellation of the caller.
                if self._members.closed and not _cancelled():
                    raise self._members.closed_error() from None
                raise
            except grpc.aio.AioRpcError as error:
                meaning = meaning_of(error)
                if meaning is Meaning.FINAL:
                    raise final_error(error, member) from error
                if meaning is Meaning.TOKEN:
                    renewals += 1
                    if renewals > _MAX_RENEWALS or metadata is None or not self._token.renewable:
                        raise StoreDenied(
                            f"etcd at {member.endpoint}: {error.details()}: check 'userid' and 'password'"
                        ) from error
                    self._token.refuse(metadata)
                    continue
                self._members.fail(member)
                # Asking for a token changes nothing, so its failure leaves nothing open.
                if meaning is Meaning.UNKNOWN and metadata is not None and not idempotent:
                    raise OutcomeUnknown(
                        f"etcd at {member.endpoint} did not answer a write ({_brief(error)}), which may or may not"
                        " have been applied: read the keys to learn more"
                    ) from error
                attempt += 1
                pause = pause_before(attempt, longest=1.0)
                if loop.time() + pause >= deadline:
                    raise StoreUnavailable(
                        f"etcd at {self._members.description} did not answer within {timeout:g} s"
                        f" ({_brief(error)}): check that it is up"
                    ) from error
                await asyncio.sleep(pause)


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _brief(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"
