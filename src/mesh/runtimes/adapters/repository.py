"""A model server that is driven by its model repository API, as Triton and MLServer have it."""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc import aio

from mesh.protos import inference_pb2 as pb
from mesh.protos.inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.runtimes.adapters.layout import Layout, clear_directory, make_directory, remove_directory
from mesh.runtimes.adapters.request import ModelRequest, disk_size_bytes, read_request
from mesh.runtimes.adapters.settings import AdapterSettings
from mesh.runtimes.connection import ConnectionWatch, OpenChannel, open_channel
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

_log = logging.getLogger(__name__)

_SERVICE = "inference.GRPCInferenceService"
_NAME_PATH = (1,)
"""The model's name is field 1 of the requests below."""
_UNLOADING = "UNLOADING"
_FIRST_PAUSE_S = 0.01
_METHODS = {f"{_SERVICE}/ModelInfer": _NAME_PATH, f"{_SERVICE}/ModelMetadata": _NAME_PATH}


@dataclass(frozen=True, slots=True)
class ServerKind:
    """How one kind of server differs from another.

    Attributes:
        name: for messages.
        repository: directory below the root in which the server looks for models.
        gone_codes: answers to an unload that say that the model is not there.
        unloads_later: an unload is answered at once and done once the model's last request has ended.
    """

    name: str
    repository: str
    gone_codes: frozenset[grpc.StatusCode]
    unloads_later: bool


class RepositoryRuntime(ModelRuntime):
    """Lays models out in the server's repository and has the server load them by name.

    Args:
        opener: opens the channel to it.
    """

    kind: ServerKind

    def __init__(self, settings: AdapterSettings, opener: OpenChannel = aio.insecure_channel) -> None:
        self._settings = settings
        self._opener = opener
        self._repository = settings.root.absolute() / self.kind.repository
        self._address = f"127.0.0.1:{settings.runtime_port}"
        self._channel: aio.Channel | None = None

    @abstractmethod
    def directory_name(self, model_id: str) -> str:
        """Names a model's directory in the repository; raises `RuntimeFailure` where there can be none."""

    @abstractmethod
    def plan(self, request: ModelRequest, directory: Path) -> Layout:
        """Plans a model's directory; raises `RuntimeFailure` or ``OSError``."""

    @property
    def serving_address(self) -> str:
        """Where the server has its management, too."""
        return self._address

    async def start(self) -> RuntimeParameters:
        """Waits until the server is ready, then has it unload all models and clears its repository.

        Raises:
            RuntimeFailure: DEADLINE_EXCEEDED, it was not ready in time; or its repository cannot be cleared.
        """
        if self._channel is None:
            self._channel = open_channel(self._address, self._opener)
        # Servers refuse to start, or to list models, without the directory.
        await self._on_disk("make the model repository", make_directory, self._repository)
        return await self._become_ready(self._settings.start_limit_s)

    async def load(self, model: ModelInfo) -> LoadedModel:
        """Gives up after the loading timeout, since a server may never answer.

        Raises:
            RuntimeFailure: INVALID_ARGUMENT or NOT_FOUND, the model cannot be laid out; or with the code of the
                server.
        """
        directory = self._repository / self.directory_name(model.model_id)
        try:
            request = read_request(model)
            await to_the_end(lambda at: self.plan(request, at).write(at), directory)
        except (RuntimeFailure, OSError) as error:
            raise layout_failure(error) from error
        try:
            await self._server.RepositoryModelLoad(
                pb.RepositoryModelLoadRequest(model_name=model.model_id), timeout=self._deadline_s
            )
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                await self._on_disk("remove a model's directory", remove_directory, directory)
            raise self._failure("Failed to load Model due to {} runtime error", error) from error
        size = self._settings.size_bytes(disk_size_bytes(model.key))
        return LoadedModel(size, self._settings.concurrency_limit)

    async def unload(self, model_id: str) -> None:
        """Gives up after the loading timeout.

        Raises:
            RuntimeFailure: with the code of the server, or DEADLINE_EXCEEDED; the model's directory stays.
        """
        try:
            directory = self._repository / self.directory_name(model_id)
        except RuntimeFailure:
            return  # its load was refused for the same reason
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._unload_from_server(model_id)
        except aio.AioRpcError as error:
            raise self._failure("Failed to unload model from {}", error) from error
        except TimeoutError:
            raise RuntimeFailure(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"Failed to unload model from {self.kind.name}: still unloading after {self._deadline_s:g} s",
            ) from None
        await self._on_disk("remove a model's directory", remove_directory, directory)

    async def predict_size(self, model: ModelInfo) -> int | None:
        """Estimates from the size of the files where the key tells it."""
        size = disk_size_bytes(model.key)
        return None if size is None else self._settings.size_bytes(size)

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        """Notices that the server is gone, and readies it once it is back, however long that takes."""
        watch = ConnectionWatch(self._address, self._open_channel)
        while True:
            await watch.connected()
            reason = await watch.lost()
            _log.error("%s is gone: %s", self.kind.name, reason)
            yield RuntimeLost(reason)
            yield RuntimeReturned(await self._become_ready(None))

    async def close(self) -> None:
        """Disconnects; models stay loaded."""
        if self._channel is not None:
            await self._channel.close()

    async def _become_ready(self, limit_s: float | None) -> RuntimeParameters:
        seen = "has not answered"
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    try:
                        version = await self._empty_server()
                        break
                    except RuntimeFailure as failure:
                        seen = str(failure)
                        _log.debug("%s at %s: %s", self.kind.name, self._address, seen)
                    await asyncio.sleep(self._settings.poll_interval_s)
        except TimeoutError:
            raise RuntimeFailure(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"{self.kind.name} at {self._address} was not ready within {limit_s:g} s: {seen}. "
                "Is it running, and does RUNTIME_PORT name its gRPC port?",
            ) from None
        await self._on_disk("clear the model repository", clear_directory, self._repository)
        _log.info("%s %s at %s is ready", self.kind.name, version, self._address)
        return self._settings.parameters(version, _METHODS)

    async def _empty_server(self) -> str:
        """Has the server unload all it has; returns its version, raises `RuntimeFailure` where it is not ready."""
        brief = self._settings.status_timeout_s
        try:
            if not (await self._server.ServerReady(pb.ServerReadyRequest(), timeout=brief)).ready:
                raise RuntimeFailure(grpc.StatusCode.UNAVAILABLE, "says that it is not ready")
            metadata = await self._server.ServerMetadata(pb.ServerMetadataRequest(), timeout=brief)
            # Models that are still being loaded count, so not only those that are ready.
            for name in {model.name for model in await self._index()}:
                async with asyncio.timeout(self._deadline_s):
                    await self._unload_from_server(name)
        except TimeoutError:
            raise RuntimeFailure(grpc.StatusCode.UNAVAILABLE, f"does not unload model '{name}'") from None
        except aio.AioRpcError as error:
            raise self._failure("{} does not answer as it should", error) from error
        return metadata.version or self._settings.runtime_version

    async def _unload_from_server(self, model_id: str) -> None:
        """Unloads and waits until the memory is free; without a deadline, and raises what gRPC does."""
        try:
            await self._server.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=model_id))
        except aio.AioRpcError as error:
            if error.code() not in self.kind.gone_codes:
                raise
        pause = _FIRST_PAUSE_S
        while self.kind.unloads_later and (model_id, _UNLOADING) in {
            (model.name, model.state) for model in await self._index()
        }:
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._settings.poll_interval_s)

    async def _index(self) -> Sequence[pb.RepositoryIndexResponse.ModelIndex]:
        answer = await self._server.RepositoryIndex(
            pb.RepositoryIndexRequest(), timeout=self._settings.status_timeout_s
        )
        return answer.models

    async def _on_disk(self, doing: str, work: Callable[[Path], None], directory: Path) -> None:
        try:
            await to_the_end(work, directory)
        except OSError as error:
            raise RuntimeFailure(grpc.StatusCode.INTERNAL, f"cannot {doing}: {error}") from error

    def _failure(self, words: str, error: aio.AioRpcError) -> RuntimeFailure:
        details = error.details() or "no message"
        return RuntimeFailure(error.code(), f"{words.format(self.kind.name)}: {details}")

    @property
    def _deadline_s(self) -> float:
        return self._settings.loading_timeout_ms / 1000

    @property
    def _open_channel(self) -> aio.Channel:
        if self._channel is None:
            raise RuntimeError("start() has not been called yet")
        return self._channel

    @property
    def _server(self) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(self._open_channel)


async def to_the_end(work: Callable[[Path], None], directory: Path) -> None:
    """Works in a thread; a cancelled caller leaves only after it, so that what follows finds a quiet disk."""
    done = asyncio.get_running_loop().run_in_executor(None, work, directory)
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        done.exception()  # the cancelled caller does not want it
        raise


def layout_failure(error: RuntimeFailure | OSError) -> RuntimeFailure:
    """Words that a model could not be laid out, as KServe ModelMesh does."""
    words = "Failed to load Model due to adapter error"
    if isinstance(error, OSError):
        return RuntimeFailure(grpc.StatusCode.INTERNAL, f"{words}: {error}")
    return RuntimeFailure(error.code, f"{words}: {error.message}")
