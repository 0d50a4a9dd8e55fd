"""OpenVINO Model Server, started with ``--config_path`` and ``--file_system_poll_wait_seconds=0``."""

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import grpc
from grpc import aio

from mesh.runtimes.adapters.layout import clear_directory, plain_directory, remove_directory
from mesh.runtimes.adapters.ovms_batches import Batches, Ended, Outcome
from mesh.runtimes.adapters.ovms_layout import model_list, plan_ovms
from mesh.runtimes.adapters.ovms_server import OvmsServer
from mesh.runtimes.adapters.ovms_settings import OvmsSettings
from mesh.runtimes.adapters.repository import layout_failure, to_the_end
from mesh.runtimes.adapters.request import disk_size_bytes, read_request
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

_NAME = "OpenVINO Model Server"
_REPOSITORY = "_ovms_models"
_SERVICE = "inference.GRPCInferenceService"
_METHODS = {
    f"{_SERVICE}/ModelInfer": (1,),
    f"{_SERVICE}/ModelMetadata": (1,),
    # The name is in the model specification, field 1 of the request.
    "tensorflow.serving.PredictionService/Predict": (1, 1),
}


class OvmsRuntime(ModelRuntime):
    """Lays models out, lists them in the server's file and has it read that.

    Args:
        opener: opens the channel by which it is noticed that the server is gone.
    """

    def __init__(self, settings: OvmsSettings, opener: OpenChannel = aio.insecure_channel) -> None:
        self._settings = settings
        self._common = settings.common
        self._opener = opener
        self._repository = self._common.root.absolute() / _REPOSITORY
        self._server = OvmsServer(
            f"127.0.0.1:{self._common.runtime_port}", settings.reload_timeout_s, self._common.status_timeout_s
        )
        self._batches = Batches()
        self._tickets = itertools.count()
        self._ends: dict[int, asyncio.Future[Ended]] = {}
        self._changed = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None

    @property
    def serving_address(self) -> str:
        """The server's gRPC port."""
        return f"127.0.0.1:{self._settings.serving_port}"

    async def start(self) -> RuntimeParameters:
        """Waits until the server answers, then empties it.

        Raises:
            RuntimeFailure: DEADLINE_EXCEEDED, it did not answer in time; or its files cannot be written.
        """
        await self._on_disk("make the file of models", self._write, {})
        parameters = await self._become_ready(self._common.start_limit_s)
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._keep_telling())
        return parameters

    async def load(self, model: ModelInfo) -> LoadedModel:
        """Gives up after the loading timeout.

        Raises:
            RuntimeFailure: INVALID_ARGUMENT or NOT_FOUND, the model cannot be laid out; FAILED_PRECONDITION, the server
                cannot load it; ABORTED, something else was asked for the model meanwhile; or the server does not
                answer.
        """
        name = plain_directory(model.model_id, _NAME)
        directory = self._repository / name
        try:
            request = read_request(model)
            await to_the_end(lambda at: plan_ovms(request).write(at), directory)
        except (RuntimeFailure, OSError) as error:
            raise layout_failure(error) from error
        ticket = next(self._tickets)
        await self._change(name, ticket, lambda: self._batches.load(name, directory, ticket))
        size = self._common.size_bytes(disk_size_bytes(model.key))
        return LoadedModel(size, self._common.concurrency_limit)

    async def unload(self, model_id: str) -> None:
        """Returns once the server has let go of it.

        Raises:
            RuntimeFailure: the server does not answer; the model's directory stays.
        """
        try:
            name = plain_directory(model_id, _NAME)
        except RuntimeFailure:
            return  # its load was refused for the same reason
        ticket = next(self._tickets)
        await self._change(name, ticket, lambda: self._batches.unload(name, ticket))
        await self._on_disk("remove a model's directory", remove_directory, self._repository / name)

    async def predict_size(self, model: ModelInfo) -> int | None:
        """Estimates from the size of the files where the key tells it."""
        size = disk_size_bytes(model.key)
        return None if size is None else self._common.size_bytes(size)

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        """Notices that the server is gone, and empties it once it is back."""
        channel = open_channel(self.serving_address, self._opener)
        watch = ConnectionWatch(self.serving_address, channel)
        try:
            while True:
                await watch.connected()
                reason = await watch.lost()
                _log.error("OpenVINO Model Server is gone: %s", reason)
                yield RuntimeLost(reason)
                # What it reads when it starts must not be what the mesh believes to be gone.
                self._batches = Batches()
                await self._on_disk("empty the file of models", self._write, {})
                yield RuntimeReturned(await self._become_ready(None))
        finally:
            await channel.close()

    async def close(self) -> None:
        """Tells the server nothing more; models stay loaded."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
            self._telling = None

    async def _change(self, name: str, ticket: int, ask: Callable[[], list[Ended]]) -> None:
        """Asks for something and waits for its end."""
        end: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._ends[ticket] = end
        self._resolve(ask())
        self._changed.set()
        timeout_s = self._common.loading_timeout_ms / 1_000 + self._settings.reload_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                ended = await end
        except TimeoutError:
            raise RuntimeFailure(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"OpenVINO Model Server took more than {timeout_s:g} s"
            ) from None
        finally:
            self._ends.pop(ticket, None)
            self._batches.give_up(name, ticket)
        match ended.outcome:
            case Outcome.DONE:
                return
            case Outcome.REFUSED:
                raise RuntimeFailure(
                    grpc.StatusCode.FAILED_PRECONDITION, f"OVMS model load failed. {ended.why}"
                )
            case Outcome.MISSING:
                raise RuntimeFailure(
                    grpc.StatusCode.INTERNAL,
                    "Expected model to load, but no status entry found in the config; does the server's "
                    f"--config_path name {self._settings.config_file}?",
                )
            case Outcome.SUPERSEDED:
                raise RuntimeFailure(
                    grpc.StatusCode.ABORTED, f"something else was asked for model {name} before this was done"
                )

    async def _keep_telling(self) -> None:
        """Has the server read the file whenever it changed, and not too often."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(self._settings.batch_wait_s)
            self._changed.clear()
            models = self._batches.begin()
            try:
                await self._on_disk("write the file of models", self._write, models)
                told = await self._server.reload()
            except RuntimeFailure as failure:
                _log.error("models cannot be told to OpenVINO Model Server: %s", failure)
                words = f"Failed to update model configuration with OVMS: {failure.message}"
                for ticket in self._batches.fail():
                    self._fail(ticket, RuntimeFailure(failure.code, words))
            else:
                self._resolve(self._batches.end(told))
                if self._batches.dirty:
                    self._changed.set()

    async def _become_ready(self, limit_s: float | None) -> RuntimeParameters:
        seen = "has not answered"
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    try:
                        await self._server.reload()
                        break
                    except RuntimeFailure as failure:
                        seen = str(failure)
                    await asyncio.sleep(self._common.poll_interval_s)
        except TimeoutError:
            raise RuntimeFailure(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"OpenVINO Model Server was not ready within {limit_s:g} s: {seen}. Is it running, and does "
                "RUNTIME_PORT name its REST port?",
            ) from None
        await self._on_disk("clear the model repository", clear_directory, self._repository)
        _log.info("OpenVINO Model Server is ready")
        return self._common.parameters(self._common.runtime_version, _METHODS)

    def _resolve(self, ended: list[Ended]) -> None:
        for one in ended:
            if (end := self._ends.get(one.ticket)) is not None and not end.done():
                end.set_result(one)

    def _fail(self, ticket: int, failure: RuntimeFailure) -> None:
        if (end := self._ends.get(ticket)) is not None and not end.done():
            end.set_exception(failure)

    def _write(self, models: Mapping[str, Path]) -> None:
        file = self._settings.config_file
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.new")
        draft.write_bytes(model_list(models))
        # In one step: the server may read at any time.
        os.replace(draft, file)  # noqa: PTH105 - Path.replace says nothing more

    async def _on_disk(self, doing: str, work: Callable[..., None], *arguments: object) -> None:
        try:
            await to_the_end(lambda _: work(*arguments), self._repository)
        except OSError as error:
            raise RuntimeFailure(grpc.StatusCode.INTERNAL, f"cannot {doing}: {error}") from error
