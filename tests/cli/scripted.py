"""A gRPC server that speaks as an instance of a mesh does, with answers that the test sets."""
# ruff: noqa: N802 - names of rpcs

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from mesh.protos import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    model_mesh_pb2,
    model_mesh_pb2_grpc,
    peer_pb2,
)
from tests.cli.messages import instances, overview

Status = model_mesh_pb2.ModelStatusInfo


class ScriptedMesh(
    admin_pb2_grpc.AdminServicer,
    model_mesh_pb2_grpc.ModelMeshServicer,
    inference_pb2_grpc.GRPCInferenceServiceServicer,
):
    """Keeps models in memory; a model is loaded by its first request. ``seen`` has what arrived."""

    def __init__(self) -> None:
        self.address = ""
        self.models: dict[str, admin_pb2.Model] = {}
        self.decisions: list[peer_pb2.Decision] = []
        self.seen: list[Any] = []
        self.page = 1_000
        self.answer = inference_pb2.ModelInferResponse()
        self.load_errors: list[str] = []
        self.exists = False
        self.takes: list[inference_pb2.ModelMetadataResponse.TensorMetadata] = []

    def add(self, *models: admin_pb2.Model) -> None:
        self.models |= {model.model_id: model for model in models}

    async def ListModels(
        self, request: admin_pb2.ListModelsRequest, context: Any
    ) -> admin_pb2.ListModelsReply:
        self.seen.append(request)
        matching = sorted(
            model_id
            for model_id, model in self.models.items()
            if model_id.startswith(request.prefix) and (model.copies or not request.loaded_only)
        )
        rest = [model_id for model_id in matching if model_id > request.after]
        shown = rest[: min(request.limit or self.page, self.page)]
        return admin_pb2.ListModelsReply(
            models=[self.models[model_id] for model_id in shown],
            next=shown[-1] if len(shown) < len(rest) else "",
            total=len(self.models),
        )

    async def DescribeModel(
        self, request: admin_pb2.DescribeModelRequest, context: Any
    ) -> admin_pb2.DescribeModelReply:
        model = self.models.get(request.model_id)
        return admin_pb2.DescribeModelReply(found=model is not None, model=model)

    async def ListInstances(
        self, request: admin_pb2.ListInstancesRequest, context: Any
    ) -> admin_pb2.ListInstancesReply:
        return instances()

    async def Overview(self, request: admin_pb2.OverviewRequest, context: Any) -> admin_pb2.OverviewReply:
        return overview(self.models.values(), self.decisions)

    async def Explain(self, request: admin_pb2.ExplainRequest, context: Any) -> admin_pb2.ExplainReply:
        about = [one for one in self.decisions if request.model_id in {"", one.model_id}]
        return admin_pb2.ExplainReply(decisions=about[: request.limit or 50])

    async def DumpState(self, request: admin_pb2.DumpStateRequest, context: Any) -> admin_pb2.DumpStateReply:
        if request.token != "open sesame":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "not the token")
        return admin_pb2.DumpStateReply(state_json='{"address": "here", "name": "jürgen"}')

    async def SetPolicy(self, request: admin_pb2.SetPolicyRequest, context: Any) -> admin_pb2.SetPolicyReply:
        self.seen.append(request)
        policy = self.models[request.model_id].policy
        if request.replace:
            policy.Clear()
        policy.MergeFrom(request.policy)
        return admin_pb2.SetPolicyReply(policy=policy)

    async def registerModel(self, request: model_mesh_pb2.RegisterModelRequest, context: Any) -> Status:
        self.seen.append(request)
        if self.exists:
            await context.abort(
                grpc.StatusCode.ALREADY_EXISTS, "Model already exists with different attribute values"
            )
        self.add(
            admin_pb2.Model(
                model_id=request.modelId, type=request.modelInfo.type, path=request.modelInfo.path
            )
        )
        return self._status(loaded=request.loadNow)

    async def ensureLoaded(self, request: model_mesh_pb2.EnsureLoadedRequest, context: Any) -> Status:
        self.seen.append(request)
        return self._status(loaded=True)

    async def unregisterModel(
        self, request: model_mesh_pb2.UnregisterModelRequest, context: Any
    ) -> model_mesh_pb2.UnregisterModelResponse:
        self.models.pop(request.modelId, None)
        return model_mesh_pb2.UnregisterModelResponse()

    async def ModelMetadata(
        self, request: inference_pb2.ModelMetadataRequest, context: Any
    ) -> inference_pb2.ModelMetadataResponse:
        if not self.takes:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no metadata here")
        return inference_pb2.ModelMetadataResponse(name=request.name, inputs=self.takes)

    async def ModelInfer(
        self, request: inference_pb2.ModelInferRequest, context: Any
    ) -> inference_pb2.ModelInferResponse:
        metadata = {key: value for key, value in context.invocation_metadata() if key.startswith("mm-")}
        self.seen.append((metadata, request))
        return self.answer

    def _status(self, *, loaded: bool) -> Status:
        if self.load_errors:
            return Status(status=Status.LOADING_FAILED, errors=self.load_errors)
        return Status(status=Status.LOADED if loaded else Status.NOT_LOADED)


@contextmanager
def scripted_mesh() -> Iterator[ScriptedMesh]:
    """Serves from a thread of its own: the commands under test run event loops themselves."""
    mesh = ScriptedMesh()  # type: ignore[abstract]
    started, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        server = grpc.aio.server()
        admin_pb2_grpc.add_AdminServicer_to_server(mesh, server)
        model_mesh_pb2_grpc.add_ModelMeshServicer_to_server(mesh, server)
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(mesh, server)
        mesh.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        started.set()
        await stop.wait()
        await server.stop(None)

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield mesh
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
