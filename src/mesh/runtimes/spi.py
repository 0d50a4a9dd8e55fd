"""The client of the ``mmesh.ModelRuntime`` SPI, which custom runtimes serve."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import grpc
from grpc import aio

from mesh.protos import model_runtime_pb2 as pb
from mesh.runtimes.connection import ConnectionWatch, OpenChannel, open_channel
from mesh.runtimes.endpoints import RuntimeEndpoints
from mesh.runtimes.interface import (
    LoadedModel,
    ModelInfo,
    ModelRuntime,
    RuntimeEvent,
    RuntimeFailure,
    RuntimeLost,
    RuntimeParameters,
    RuntimeReturned,
)
from mesh.runtimes.status import (
    MAX_BYTES,
    Next,
    Verdict,
    judge_answer,
    judge_error,
    read_load,
    read_parameters,
)

SERVICE = "mmesh.ModelRuntime"
LEGACY_SERVICE = "com.ibm.watson.tas.internal.proto.ModelServer"
"""The same methods and messages under the name that runtimes older than the SPI's open-sourcing serve."""

_log = logging.getLogger(__name__)


class _Request(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802  protobuf's name


_Response = TypeVar("_Response")


@dataclass(frozen=True, slots=True)
class SpiTimings:
    """Waits and deadlines in seconds. The defaults are those of KServe ModelMesh where it has one.

    Attributes:
        start_limit_s: for `SpiRuntime.start` as a whole.
        first_poll_interval_s: between the first two polls at the start; doubles up to ``poll_interval_s``.
        poll_interval_s: between polls.
        predict_size_s: deadline of ``predictModelSize``.
        model_size_s: deadline of ``modelSize``.
        unload_s: deadline of ``unloadModel``; None for twice the runtime's own loading timeout. KServe
            ModelMesh has none, so that a runtime that hangs in an unload keeps the space for ever.
    """

    start_limit_s: float = 180.0
    first_poll_interval_s: float = 0.05
    poll_interval_s: float = 2.0
    predict_size_s: float = 0.5
    model_size_s: float = 30.0
    unload_s: float | None = None


class SpiRuntime(ModelRuntime):
    """A custom runtime that serves ``mmesh.ModelRuntime``, or its predecessor, on a port or a unix socket.

    Args:
        opener: opens the channels to it.
    """

    def __init__(
        self,
        endpoints: RuntimeEndpoints | None = None,
        timings: SpiTimings | None = None,
        opener: OpenChannel = aio.insecure_channel,
    ) -> None:
        self._opener = opener
        self._endpoints = endpoints or RuntimeEndpoints()
        self._timings = timings or SpiTimings()
        self._link: _Link | None = None
        self._parameters: RuntimeParameters | None = None
        self._predicts_sizes = True

    @property
    def serving_address(self) -> str:
        """The serving endpoint where there is one, else where the SPI was found."""
        return self._endpoints.serving or self._connected.address

    async def start(self) -> RuntimeParameters:
        """Polls the candidates until one is ready, at most `SpiTimings.start_limit_s`. May be called again.

        Raises:
            RuntimeFailure: DEADLINE_EXCEEDED where none was ready in time; FAILED_PRECONDITION where one said
                that it failed, serves something else, or told impossible values.
        """
        await self.close()
        links = [_Link(address, self._opener) for address in self._endpoints.management]
        polls = [asyncio.create_task(self._poll(link)) for link in links]
        try:
            async with asyncio.timeout(self._timings.start_limit_s):
                done, _ = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
            winner = next(poll for poll in polls if poll in done)
            self._parameters = winner.result()
            self._link = links[polls.index(winner)]
        except TimeoutError:
            seen = "; ".join(f"{link.address} {link.last}" for link in links)
            raise RuntimeFailure(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"no model runtime was ready within {self._timings.start_limit_s:g} s: {seen}. Is it running,"
                " and does it listen where INTERNAL_GRPC_PORT or INTERNAL_GRPC_SOCKET_PATH says?",
            ) from None
        finally:
            for poll in polls:
                poll.cancel()
            await asyncio.gather(*polls, return_exceptions=True)
            for link in links:
                if link is not self._link:
                    await link.close()
        _log.info("runtime at %s is ready: %s", self._link.address, self._parameters)
        return self._parameters

    async def load(self, model: ModelInfo) -> LoadedModel:
        """Has no deadline of its own: cancel it after the loading timeout, and unload the model then."""
        request = pb.LoadModelRequest(
            modelId=model.model_id, modelType=model.model_type, modelPath=model.path, modelKey=model.key
        )
        answer = await self._connected.call("loadModel", request, pb.LoadModelResponse.FromString, None)
        loaded, warnings = read_load(
            answer.sizeInBytes, answer.maxConcurrency, limited=self._ready.limit_model_concurrency
        )
        for warning in warnings:
            _log.warning("loadModel of %s: %s", model.model_id, warning)
        return loaded

    async def unload(self, model_id: str) -> None:
        """Gives up after `SpiTimings.unload_s`."""
        deadline = self._timings.unload_s or 2 * self._ready.loading_timeout_ms / 1000
        request = pb.UnloadModelRequest(modelId=model_id)
        try:
            await self._connected.call("unloadModel", request, pb.UnloadModelResponse.FromString, deadline)
        except RuntimeFailure as failure:
            if failure.code is not grpc.StatusCode.NOT_FOUND:
                raise

    async def predict_size(self, model: ModelInfo) -> int | None:
        """None, too, where the runtime failed to tell or took too long."""
        if not self._predicts_sizes:
            return None
        request = pb.PredictModelSizeRequest(
            modelId=model.model_id, modelType=model.model_type, modelPath=model.path, modelKey=model.key
        )
        try:
            answer = await self._connected.call(
                "predictModelSize",
                request,
                pb.PredictModelSizeResponse.FromString,
                self._timings.predict_size_s,
            )
        except RuntimeFailure as failure:
            if failure.code is grpc.StatusCode.UNIMPLEMENTED:
                self._predicts_sizes = False
            else:
                _log.warning("size of %s is not predicted: %s", model.model_id, failure)
            return None
        return _size("predictModelSize", model.model_id, answer.sizeInBytes)

    async def model_size(self, model_id: str) -> int | None:
        """None, too, where the runtime failed to tell or took too long."""
        request = pb.ModelSizeRequest(modelId=model_id)
        try:
            answer = await self._connected.call(
                "modelSize", request, pb.ModelSizeResponse.FromString, self._timings.model_size_s
            )
        except RuntimeFailure as failure:
            _log.warning("size of %s is not measured: %s", model_id, failure)
            return None
        return _size("modelSize", model_id, answer.sizeInBytes)

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        """Sends nothing while the runtime is there: ``runtimeStatus`` makes runtimes unload all models."""
        link = self._connected
        watches = [ConnectionWatch(link.address, link.channel)]
        serving = None
        if self.serving_address != link.address:
            serving = open_channel(self.serving_address)
            watches.append(ConnectionWatch(self.serving_address, serving))
        try:
            while True:
                reason = await _first([_connected_then_lost(watch) for watch in watches])
                _log.error("runtime is gone: %s", reason)
                yield RuntimeLost(reason)
                for watch in watches:
                    await watch.connected()
                link.service = SERVICE
                self._predicts_sizes = True
                self._parameters = await self._poll(link)
                _log.info("runtime at %s is ready again: %s", link.address, self._parameters)
                yield RuntimeReturned(self._parameters)
        finally:
            if serving is not None:
                await serving.close()

    async def close(self) -> None:
        """Disconnects; `watch` must have ended."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _poll(self, link: "_Link") -> RuntimeParameters:
        """Asks for the runtime's status until it is ready or says that it never will be."""
        interval = self._timings.first_poll_interval_s
        while True:
            answer, verdict = await link.poll()
            link.last = verdict.reason
            match verdict.next:
                case Next.ACCEPT if answer is not None:
                    return read_parameters(answer)
                case Next.FAIL:
                    raise RuntimeFailure(
                        grpc.StatusCode.FAILED_PRECONDITION, f"the runtime at {link.address} {verdict.reason}"
                    )
                case Next.TRY_LEGACY:
                    link.service = LEGACY_SERVICE
                    continue
            _log.debug("runtime at %s %s", link.address, verdict.reason)
            await asyncio.sleep(interval)
            interval = min(2 * interval, self._timings.poll_interval_s)

    @property
    def _connected(self) -> "_Link":
        if self._link is None:
            raise RuntimeError("start() has not returned yet")
        return self._link

    @property
    def _ready(self) -> RuntimeParameters:
        if self._parameters is None:
            raise RuntimeError("start() has not returned yet")
        return self._parameters


class _Link:
    """One address where the runtime may be, and under which name it serves the SPI there."""

    def __init__(self, address: str, opener: OpenChannel) -> None:
        self.address = address
        self.channel = open_channel(address, opener)
        self.service = SERVICE
        self._methods: dict[str, aio.UnaryUnaryMultiCallable[Any, Any]] = {}
        self.last = "has not answered"

    async def poll(self) -> tuple[pb.RuntimeStatusResponse | None, Verdict]:
        """Asks once, without a deadline: runtimes unload all their models before they answer."""
        try:
            answer = await self.call(
                "runtimeStatus", pb.RuntimeStatusRequest(), pb.RuntimeStatusResponse.FromString, None
            )
        except RuntimeFailure as failure:
            legacy = self.service == LEGACY_SERVICE
            return None, judge_error(failure.code, failure.message, legacy=legacy)
        return answer, judge_answer(answer)

    async def call(
        self, rpc: str, request: _Request, parse: Callable[[bytes], _Response], deadline_s: float | None
    ) -> _Response:
        name = f"/{self.service}/{rpc}"
        method = self._methods.get(name)
        if method is None:
            # Made once for each method: it is not free.
            method = self._methods[name] = self.channel.unary_unary(name, _serialize, parse)
        try:
            return cast("_Response", await method(request, timeout=deadline_s))
        except aio.AioRpcError as error:
            raise RuntimeFailure(error.code(), f"{rpc}: {error.details() or 'no message'}") from error

    async def close(self) -> None:
        await self.channel.close()


def _size(rpc: str, model_id: str, size_bytes: int) -> int | None:
    if size_bytes > MAX_BYTES:
        _log.warning("%s of %s: sizeInBytes=%d is impossible and was ignored", rpc, model_id, size_bytes)
        return None
    return size_bytes or None


def _serialize(message: _Request) -> bytes:
    return message.SerializeToString()


async def _connected_then_lost(watch: ConnectionWatch) -> str:
    await watch.connected()
    return await watch.lost()


async def _first(waits: Sequence[Coroutine[Any, Any, str]]) -> str:
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
