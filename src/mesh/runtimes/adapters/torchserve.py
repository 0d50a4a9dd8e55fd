"""TorchServe, started with the configuration that is written into its model store."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import grpc
from grpc import aio

from mesh.protos.torchserve_management_pb2 import RegisterModelRequest
from mesh.runtimes.adapters.repository import layout_failure, to_the_end
from mesh.runtimes.adapters.request import disk_size_bytes, read_request
from mesh.runtimes.adapters.torchserve_layout import (
    CONFIG,
    archive_name,
    clear_store,
    link_archive,
    require_archive,
    write_config,
)
from mesh.runtimes.adapters.torchserve_server import TorchServe, worker_memory_bytes
from mesh.runtimes.adapters.torchserve_settings import TorchServeSettings
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

_STORE = "_torchserve_models"
_NAME_PATH = (1,)
"""The model's name is field 1 of the requests below."""
_METHODS = {
    "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions": _NAME_PATH,
    # The Open Inference Protocol, as TorchServe names it where it is turned on.
    "org.pytorch.serve.grpc.openinference.GRPCInferenceService/ModelInfer": _NAME_PATH,
    "org.pytorch.serve.grpc.openinference.GRPCInferenceService/ModelMetadata": _NAME_PATH,
    # The same under its own name, which KServe ModelMesh lets through: for what may stand before TorchServe.
    "inference.GRPCInferenceService/ModelInfer": _NAME_PATH,
    "inference.GRPCInferenceService/ModelMetadata": _NAME_PATH,
}
_HEALTHY = "Healthy"
_MARGIN = 1.1
"""Of what the workers take, as KServe ModelMesh has it: they grow when they are asked."""
_NOBODY = "mesh: may models be unregistered?"
_SIZE_PAUSE_S = 1.0


class TorchServeRuntime(ModelRuntime):
    """Links archives into the server's model store and has the server register them.

    Args:
        opener: opens the channels to it.
    """

    def __init__(self, settings: TorchServeSettings, opener: OpenChannel = aio.insecure_channel) -> None:
        self._settings = settings
        self._common = settings.common
        self._opener = opener
        self._store = self._common.root.absolute() / _STORE
        self._address = f"127.0.0.1:{self._common.runtime_port}"
        self._channels: tuple[aio.Channel, aio.Channel] | None = None

    @property
    def serving_address(self) -> str:
        """The server's gRPC inference port."""
        return f"127.0.0.1:{self._settings.serving_port}"

    async def start(self) -> RuntimeParameters:
        """Writes the server's configuration, waits until it is ready, then has it unload all models.

        Raises:
            RuntimeFailure: DEADLINE_EXCEEDED, it was not ready in time; PERMISSION_DENIED, it lets nobody manage
                models; or its store cannot be written.
        """
        if self._channels is None:
            management = open_channel(self._address, self._opener)
            self._channels = management, open_channel(self.serving_address, self._opener)
        ports = self._common.runtime_port, self._settings.serving_port
        await self._on_disk("write TorchServe's configuration", lambda: write_config(self._store, *ports))
        return await self._become_ready(self._common.start_limit_s)

    async def load(self, model: ModelInfo) -> LoadedModel:
        """Gives up after the loading timeout. The size is to be measured: see `model_size`.

        Raises:
            RuntimeFailure: INVALID_ARGUMENT or NOT_FOUND, the model has no archive; or with the code of the server.
        """
        try:
            request = read_request(model)
            link = self._store / archive_name(model.model_id)
            archive = require_archive(request.path)
            await to_the_end(lambda at: link_archive(at, archive), link)
        except (RuntimeFailure, OSError) as error:
            raise layout_failure(error) from error
        if request.schema_path is not None:
            _log.warning("TorchServe has no use for the schema of model %s", model.model_id)
        limit = self._common.concurrency_limit
        try:
            # A load that was given up may have ended after its unload; the server would keep to that one's archive.
            await self._server.unregister(model.model_id)
            await self._server.register(
                RegisterModelRequest(
                    model_name=model.model_id,
                    url=link.name,
                    synchronous=True,
                    # A worker takes one batch at a time.
                    initial_workers=max(1, limit),
                    batch_size=self._settings.batch_size,
                    max_batch_delay=self._settings.max_batch_delay_ms,
                )
            )
        except aio.AioRpcError as error:
            failure = _failure("Failed to load model due to TorchServe register error", error)
            if "Failed to start workers" in failure.message:
                failure = RuntimeFailure(failure.code, f"{failure.message}; TorchServe's log tells why")
            raise failure from error
        return LoadedModel(0, limit)

    async def unload(self, model_id: str) -> None:
        """Gives up after the loading timeout.

        Raises:
            RuntimeFailure: with the code of the server, or DEADLINE_EXCEEDED; the link stays.
        """
        try:
            link = self._store / archive_name(model_id)
        except RuntimeFailure:
            return  # its load was refused for the same reason
        try:
            await self._server.unregister(model_id)
        except aio.AioRpcError as error:
            raise _failure("Failed to unload model from TorchServe", error) from error
        await self._on_disk("remove the link to a model", lambda: link.unlink(missing_ok=True))

    async def predict_size(self, model: ModelInfo) -> int | None:
        """Estimates from the size of the archive where the key tells it."""
        size = disk_size_bytes(model.key)
        return None if size is None else self._common.size_bytes(size)

    async def model_size(self, model_id: str) -> int | None:
        """Asks what the model's workers take, for as long as the server has not measured all of them.

        Returns: that, or an estimate from the archive's size where none of them is measured in time; None where the
            model is gone.

        Raises:
            RuntimeFailure: with the code of the server.
        """
        used: list[int] = []
        try:
            async with asyncio.timeout(self._settings.size_limit_s):
                while not used or 0 in used:
                    described = await self._server.describe(model_id)
                    if not described:
                        return None
                    used = worker_memory_bytes(described) or used
                    if not used or 0 in used:
                        await asyncio.sleep(_SIZE_PAUSE_S)
        except (TimeoutError, RuntimeFailure):
            _log.info(
                "TorchServe has measured %d of %d workers of model %s", _known(used), len(used), model_id
            )
        except aio.AioRpcError as error:
            raise _failure("TorchServe does not tell a model's size", error) from error
        if known := _known(used):
            return int(sum(used) / known * len(used) * _MARGIN)
        try:
            archive = await asyncio.to_thread((self._store / archive_name(model_id)).stat)
        except OSError:
            return None
        return self._common.size_bytes(archive.st_size)

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        """Notices that the server is gone, and readies it once it is back, however long that takes."""
        watch = ConnectionWatch(self._address, self._open_channels[0])
        while True:
            await watch.connected()
            reason = await watch.lost()
            _log.error("TorchServe is gone: %s", reason)
            yield RuntimeLost(reason)
            yield RuntimeReturned(await self._become_ready(None))

    async def close(self) -> None:
        """Disconnects; models stay loaded."""
        for channel in self._channels or ():
            await channel.close()

    async def _become_ready(self, limit_s: float | None) -> RuntimeParameters:
        seen = "has not answered"
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    try:
                        await self._empty_server()
                        break
                    except RuntimeFailure as failure:
                        if failure.code is grpc.StatusCode.PERMISSION_DENIED:
                            raise
                        seen = str(failure)
                        _log.debug("TorchServe at %s: %s", self._address, seen)
                    await asyncio.sleep(self._common.poll_interval_s)
        except TimeoutError:
            raise RuntimeFailure(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"TorchServe at {self._address} was not ready within {limit_s:g} s: {seen}. Is it running, with "
                f"--ts-config={self._store / CONFIG}, and do RUNTIME_PORT and RUNTIME_DATA_ENDPOINT name its "
                "gRPC ports?",
            ) from None
        await self._on_disk("clear the model store", lambda: clear_store(self._store))
        _log.info("TorchServe at %s is ready", self._address)
        return self._common.parameters(self._common.runtime_version, _METHODS)

    async def _empty_server(self) -> None:
        """Has the server unload all it has; raises `RuntimeFailure` where it is not ready."""
        names: list[str] = []
        try:
            async with asyncio.timeout(self._common.loading_timeout_ms / 1_000):
                # Where that is forbidden an empty list says nothing.
                await self._server.unregister(_NOBODY)
                while names := await self._server.some_models():
                    for name in names:
                        await self._server.unregister(name)
                # Asked last: a model whose workers do not start makes it unhealthy.
                health = await self._server.health()
        except TimeoutError:
            raise RuntimeFailure(grpc.StatusCode.UNAVAILABLE, f"does not unload models {names[:5]}") from None
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                words = (
                    f"TorchServe lets nobody manage models; start it with --ts-config={self._store / CONFIG}, or set "
                    "enable_model_api=true and disable_token_authorization=true in its own configuration"
                )
                raise _failure(words, error) from error
            raise _failure("TorchServe does not answer as it should", error) from error
        if health != _HEALTHY:
            raise RuntimeFailure(grpc.StatusCode.UNAVAILABLE, f"says that it is '{health}'")

    async def _on_disk(self, doing: str, work: Callable[[], None]) -> None:
        try:
            await to_the_end(lambda _: work(), self._store)
        except OSError as error:
            raise RuntimeFailure(grpc.StatusCode.INTERNAL, f"cannot {doing}: {error}") from error

    @property
    def _open_channels(self) -> tuple[aio.Channel, aio.Channel]:
        if self._channels is None:
            raise RuntimeError("start() has not been called yet")
        return self._channels

    @property
    def _server(self) -> TorchServe:
        common = self._common
        return TorchServe(*self._open_channels, common.loading_timeout_ms / 1_000, common.status_timeout_s)


def _known(used: list[int]) -> int:
    return sum(1 for one in used if one)


def _failure(words: str, error: aio.AioRpcError) -> RuntimeFailure:
    # The second line of its messages is the name of a Java class.
    details = (error.details() or "no message").partition("\n")[0]
    return RuntimeFailure(error.code(), f"{words}: {details}")
