"""A client of a running mesh, for the commands that ask one."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click
import grpc

from mesh.protos import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    model_mesh_pb2,
    model_mesh_pb2_grpc,
    payloads_pb2_grpc,
    vmodels_pb2,
    vmodels_pb2_grpc,
)

DEFAULT_ADDRESS = "127.0.0.1:8033"
#: How long a question about the mesh may take, seconds.
QUESTION_TIMEOUT_S = 10.0
#: As large as a mesh sends; the default of gRPC would cut a large answer off.
_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])


def address_option(command: Function) -> Function:
    """Adds ``--address``, shared by all commands that ask a mesh."""
    return click.option(
        "--address",
        metavar="HOST:PORT",
        default=lambda: os.environ.get("MESH_ADDRESS") or DEFAULT_ADDRESS,
        callback=lambda _context, _option, value: checked_address(value),
        help=f"Inference port of any instance.  [default: $MESH_ADDRESS or {DEFAULT_ADDRESS}]",
    )(command)


def checked_address(value: str) -> str:
    """Reads an address as people write it; a bare port or ``:port`` is on this machine.

    Returns: ``host:port`` or ``unix:/path``.

    Raises:
        click.BadParameter: it is neither.
    """
    if value.startswith("unix:"):
        return value
    if bare := re.fullmatch(r":?(\d+)", value):
        value = f"127.0.0.1:{bare[1]}"
    matched = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/]+):(\d+)", value)
    if matched is None or not 0 < int(matched[2]) < 65_536:
        raise click.BadParameter(f"{value!r} is not an address; write host:port, such as {DEFAULT_ADDRESS}")
    return value


def model_header(model_id: str, *, vmodel: bool = False) -> tuple[str, str | bytes]:
    """The metadata that names the model; ids that are not visible ASCII need the binary header."""
    name = "mm-vmodel-id" if vmodel else "mm-model-id"
    if all(" " <= character <= "~" for character in model_id) and model_id == model_id.strip():
        return name, model_id
    return f"{name}-bin", model_id.encode()


@dataclass(frozen=True, slots=True)
class ModelList:
    """An answer to `Mesh.models`.

    Attributes:
        models: in order of their ids.
        more: there are others that match.
        registered: all models of the mesh, whether they match or not.
    """

    models: tuple[admin_pb2.Model, ...]
    more: bool
    registered: int


@dataclass(frozen=True, slots=True)
class Mesh:
    """The services of one instance; see their ``.proto`` files."""

    address: str
    admin: admin_pb2_grpc.AdminStub
    management: model_mesh_pb2_grpc.ModelMeshStub
    inference: inference_pb2_grpc.GRPCInferenceServiceStub
    vmodels: vmodels_pb2_grpc.VModelsStub
    payloads: payloads_pb2_grpc.PayloadsStub

    async def model(self, model_id: str) -> admin_pb2.Model | None:
        """Asks for one model; None where it is not registered."""
        reply = await self.admin.DescribeModel(
            admin_pb2.DescribeModelRequest(model_id=model_id), timeout=QUESTION_TIMEOUT_S
        )
        return reply.model if reply.found else None

    async def active_model(self, vmodel_id: str) -> admin_pb2.Model | None:
        """Asks for the model that a vmodel stands for; None where there is no such vmodel, or its model is gone."""
        request = model_mesh_pb2.GetVModelStatusRequest(vModelId=vmodel_id)
        status = await self.management.getVModelStatus(request, timeout=QUESTION_TIMEOUT_S)
        return await self.model(status.activeModelId) if status.activeModelId else None

    async def models(
        self, *, prefix: str = "", loaded_only: bool = False, limit: int | None = None
    ) -> ModelList:
        """Asks for the models page by page, at most ``limit`` of them."""
        models: list[admin_pb2.Model] = []
        after = ""
        while True:
            request = admin_pb2.ListModelsRequest(prefix=prefix, after=after, loaded_only=loaded_only)
            if limit is not None:
                request.limit = limit - len(models)
            reply = await self.admin.ListModels(request, timeout=QUESTION_TIMEOUT_S)
            models.extend(reply.models)
            after = reply.next
            if not after or (limit is not None and len(models) >= limit):
                return ModelList(tuple(models), more=bool(after), registered=reply.total)

    async def list_vmodels(self, *, prefix: str, owner: str, limit: int | None) -> list[vmodels_pb2.VModel]:
        """Asks for the vmodels page by page, at most ``limit`` of them."""
        vmodels: list[vmodels_pb2.VModel] = []
        request = vmodels_pb2.ListRequest(prefix=prefix, owner=owner)
        while True:
            if limit is not None:
                request.limit = limit - len(vmodels)
            reply = await self.vmodels.List(request, timeout=QUESTION_TIMEOUT_S)
            vmodels.extend(reply.vmodels)
            request.after = reply.next
            if not reply.next or (limit is not None and len(vmodels) >= limit):
                return vmodels

    async def instances(self) -> admin_pb2.ListInstancesReply:
        """Asks for the instances of the mesh."""
        return await self.admin.ListInstances(admin_pb2.ListInstancesRequest(), timeout=QUESTION_TIMEOUT_S)

    async def overview(self) -> admin_pb2.OverviewReply:
        """Asks how the whole mesh looks."""
        return await self.admin.Overview(admin_pb2.OverviewRequest(), timeout=QUESTION_TIMEOUT_S)

    async def explain(self, model_id: str = "", limit: int = 0) -> admin_pb2.ExplainReply:
        """Asks for decisions, newest first; of all models where ``model_id`` is empty."""
        return await self.admin.Explain(
            admin_pb2.ExplainRequest(model_id=model_id, limit=limit), timeout=QUESTION_TIMEOUT_S
        )

    async def register(
        self, model_id: str, info: model_mesh_pb2.ModelInfo, *, load: bool, timeout_s: float
    ) -> model_mesh_pb2.ModelStatusInfo:
        """Registers a model; with ``load``, answers when it is loaded or has failed to."""
        return await self.management.registerModel(
            model_mesh_pb2.RegisterModelRequest(modelId=model_id, modelInfo=info, loadNow=load, sync=load),
            timeout=timeout_s,
        )

    async def only_input(
        self, model_id: str, *, timeout_s: float, vmodel: bool = False
    ) -> inference_pb2.ModelMetadataResponse.TensorMetadata | None:
        """Asks a model what it takes, which loads it; None where it takes several tensors or cannot tell."""
        try:
            reply = await self.inference.ModelMetadata(
                inference_pb2.ModelMetadataRequest(name=model_id),
                metadata=[model_header(model_id, vmodel=vmodel)],
                timeout=timeout_s,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise
        return reply.inputs[0] if len(reply.inputs) == 1 else None

    async def infer(
        self,
        model_id: str,
        request: inference_pb2.ModelInferRequest,
        *,
        timeout_s: float,
        vmodel: bool = False,
    ) -> inference_pb2.ModelInferResponse:
        """Asks a model by the Open Inference Protocol."""
        return await self.inference.ModelInfer(
            request, metadata=[model_header(model_id, vmodel=vmodel)], timeout=timeout_s
        )


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[Mesh]:
    """Connects to the instance at ``address``; the connection is made by the first question."""
    async with grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        yield Mesh(
            address,
            admin_pb2_grpc.AdminStub(channel),
            model_mesh_pb2_grpc.ModelMeshStub(channel),
            inference_pb2_grpc.GRPCInferenceServiceStub(channel),
            vmodels_pb2_grpc.VModelsStub(channel),
            payloads_pb2_grpc.PayloadsStub(channel),
        )


def ask(address: str, question: Callable[[Mesh], Awaitable[Result]]) -> Result:
    """Asks the mesh one question, from a command.

    Raises:
        click.ClickException: it could not be answered; the message tells why and what to do.
    """

    async def connected() -> Result:
        async with connect(address) as mesh:
            return await question(mesh)

    return run(address, connected())


def run(address: str, work: Coroutine[Any, Any, Result]) -> Result:
    """Runs ``work``, which asks the instance at ``address``, and puts its failures into words.

    Raises:
        click.ClickException: see `ask`.
    """
    try:
        return asyncio.run(work)
    except grpc.aio.AioRpcError as error:
        raise click.ClickException(failure_message(address, error)) from None


def failure_message(address: str, error: grpc.aio.AioRpcError) -> str:
    """What went wrong, for people, with the remedy where there is one."""
    details = error.details() or ""
    match error.code():
        case grpc.StatusCode.UNAVAILABLE if (
            "failed to connect" in details.lower() or "dns" in details.lower()
        ):
            return (
                f"nothing answers at {address}: start a mesh with `mesh up`, "
                "or name one of its instances with --address or MESH_ADDRESS"
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{address} does not serve this; is it an instance of a mesh? It says: {details}"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{address} did not answer in time; it may be overloaded, or still be loading the model"
        case code:
            return f"{code.name}: {details}" if details else code.name


def now_ms() -> int:
    """The time in epoch milliseconds, as the messages of a mesh have it."""
    return int(time.time() * 1_000)
