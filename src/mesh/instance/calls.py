"""Answers the unary calls of the control API, which the data plane hands over whole."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from mesh.dataplane import Call, DataPlane
from mesh.instance import logs
from mesh.instance.errors import MeshError, Reason, invalid
from mesh.tracing import Spans, enter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method.

    Attributes:
        answer: from request to reply; raises `MeshError` for any other status.
        request: the message's type.
    """

    answer: Callable[[Any], Awaitable[Any]]
    request: Any


def service(name: str, rpcs: Mapping[str, Rpc]) -> dict[str, Rpc]:
    """The methods of a service by their full names."""
    return {f"{name}/{rpc}": method for rpc, method in rpcs.items()}


class Calls:
    """Takes calls from one data plane and answers each, by a task of its own.

    Args:
        rpcs: by full method name.
        spans: takes what is traced.
    """

    def __init__(self, dataplane: DataPlane, rpcs: Mapping[str, Rpc], spans: Spans) -> None:
        self._dataplane = dataplane
        self.rpcs = rpcs
        self._spans = spans
        self._answering: set[asyncio.Task[None]] = set()

    def take(self) -> None:
        """Begins to answer what has come in."""
        loop = asyncio.get_running_loop()
        for call in self._dataplane.take_calls():
            task = loop.create_task(self._answer(call))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, call: Call) -> None:
        # This task's alone.
        logs.request_context.set(call.context)
        enter(self._spans, call.traceparent)
        try:
            reply = await self._reply(call)
        except MeshError as error:
            context = {"method": call.method, "status": error.code.name}
            if error.model_id:
                context["model"] = error.model_id
            log.error("request failed with %s: %s", error.code.name, error.message, extra=context)
            self._fail(call, error)
        except Exception:
            log.exception("call failed", extra={"method": call.method})
            self._fail(
                call,
                MeshError(
                    grpc.StatusCode.INTERNAL, Reason.INTERNAL, "the mesh failed; its log has the details"
                ),
            )
        else:
            self._dataplane.answer_call(call.token, reply)

    async def _reply(self, call: Call) -> bytes:
        rpc = self.rpcs[call.method]
        try:
            request = rpc.request.FromString(call.message)
        except DecodeError as error:
            raise invalid(
                f"the request of {call.method} is no {rpc.request.DESCRIPTOR.name}: {error}"
            ) from None
        reply = await rpc.answer(request)
        return bytes(reply.SerializeToString())

    def _fail(self, call: Call, error: MeshError) -> None:
        self._dataplane.fail_call(call.token, error.status_number, error.message, error.details())

    async def close(self) -> None:
        """Answers no more; open calls are left to the end of the data plane."""
        tasks = tuple(self._answering)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
