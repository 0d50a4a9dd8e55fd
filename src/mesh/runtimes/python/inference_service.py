"""The Open Inference Protocol as a runtime in Python serves it."""

import functools
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NoReturn

import grpc
from grpc import aio

from mesh.protos import inference_pb2 as pb
from mesh.protos.inference_pb2_grpc import GRPCInferenceServiceServicer
from mesh.runtimes.interface import RuntimeFailure
from mesh.runtimes.python.errors import failure_of
from mesh.runtimes.python.model import AnyRuntime, InferRequest, InvalidInput, TensorSpec
from mesh.runtimes.python.table import Entry, ModelTable
from mesh.runtimes.python.tensors import check_inputs, read_inputs, read_parameters, write_outputs
from mesh.runtimes.python.workers import FairPool

_log = logging.getLogger(__name__)

_NO_REPOSITORY = RuntimeFailure(
    grpc.StatusCode.UNIMPLEMENTED,
    "models are loaded and unloaded by mmesh.ModelRuntime, with the path of their data",
)

_Context = aio.ServicerContext[Any, Any]


class InferenceService(GRPCInferenceServiceServicer):
    """Asks models. Which one is said by ``mm-model-id-bin`` or ``mm-model-id``, else by the request itself.

    There is one version of each model, so the version in a request is not looked at.
    """

    def __init__(self, runtime: AnyRuntime, models: ModelTable, pool: FairPool) -> None:
        self._runtime = runtime
        self._models = models
        self._pool = pool

    async def ServerLive(  # noqa: N802
        self, request: pb.ServerLiveRequest, context: "_Context"
    ) -> pb.ServerLiveResponse:
        """Answers that it is."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: "_Context"
    ) -> pb.ServerReadyResponse:
        """Answers that it is: it takes models from its start on."""
        return pb.ServerReadyResponse(ready=True)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: "_Context"
    ) -> pb.ServerMetadataResponse:
        """Names the runtime."""
        return pb.ServerMetadataResponse(name=self._runtime.name, version=self._runtime.version)

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: "_Context"
    ) -> pb.ModelReadyResponse:
        """Tells whether a model is loaded."""
        model_id, from_mesh = _model_id(context, request.name)
        try:
            with self._models.use(model_id):
                return pb.ModelReadyResponse(ready=True)
        except RuntimeFailure as failure:
            # The mesh has to know that it believes in a copy that is not there; others only want to know.
            if from_mesh:
                await context.abort(failure.code, failure.message)
            return pb.ModelReadyResponse(ready=False)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: "_Context"
    ) -> pb.ModelMetadataResponse:
        """Tells what a model takes and gives, where that is known."""
        model_id, _ = _model_id(context, request.name)
        try:
            with self._models.use(model_id) as entry:
                return pb.ModelMetadataResponse(
                    name=model_id,
                    platform=entry.metadata.platform,
                    inputs=_tensor_metadata(entry.metadata.inputs),
                    outputs=_tensor_metadata(entry.metadata.outputs),
                )
        except RuntimeFailure as failure:
            await _abort(context, failure)

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: "_Context"
    ) -> pb.ModelInferResponse:
        """Asks a model."""
        model_id, _ = _model_id(context, request.model_name)
        try:
            return await self._infer(model_id, request, _trace(context))
        except Exception as error:  # noqa: BLE001  user code may raise anything
            await _abort(context, failure_of(error))

    async def ModelStreamInfer(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: "_Context"
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answers requests one after another; one that fails is answered with its error and ends nothing."""
        trace = _trace(context)
        async for request in request_iterator:
            model_id, _ = _model_id(context, request.model_name)
            try:
                yield pb.ModelStreamInferResponse(infer_response=await self._infer(model_id, request, trace))
            except Exception as error:  # noqa: BLE001  user code may raise anything
                failure = failure_of(error)
                if failure.code is grpc.StatusCode.NOT_FOUND:
                    await _abort(context, failure)
                yield pb.ModelStreamInferResponse(
                    error_message=str(failure), infer_response=pb.ModelInferResponse(id=request.id)
                )

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: "_Context"
    ) -> pb.RepositoryIndexResponse:
        """Lists the models that are loaded."""
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[index(name=name, state="READY") for name in self._models.names()]
        )

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: "_Context"
    ) -> pb.RepositoryModelLoadResponse:
        """Refuses: there is no repository to load from."""
        await _abort(context, _NO_REPOSITORY)

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: "_Context"
    ) -> pb.RepositoryModelUnloadResponse:
        """Refuses: whoever has loaded a model unloads it."""
        await _abort(context, _NO_REPOSITORY)

    async def _infer(
        self, model_id: str, request: pb.ModelInferRequest, trace: Mapping[str, str]
    ) -> pb.ModelInferResponse:
        with self._models.use(model_id) as entry:
            work = functools.partial(_ask, self._runtime, entry, request, trace)
            return await self._pool.run(model_id, work)


def _ask(
    runtime: AnyRuntime, entry: Entry, request: pb.ModelInferRequest, trace: Mapping[str, str]
) -> pb.ModelInferResponse:
    """Runs in a worker thread, as all that takes time with the size of the tensors."""
    inputs = read_inputs(request)
    if entry.metadata.inputs and entry.metadata.check_inputs:
        check_inputs(request, entry.metadata.inputs)
    wanted = [output.name for output in request.outputs]
    asked = InferRequest(entry.info.model_id, read_parameters(request.parameters), wanted, trace)
    outputs = runtime.infer(entry.model, inputs, asked)
    for name in wanted:
        if name not in outputs:
            raise InvalidInput(f"output {name!r} is unknown; the model gives {', '.join(map(repr, outputs))}")
    response = pb.ModelInferResponse(model_name=entry.info.model_id, id=request.id)
    write_outputs(
        {name: outputs[name] for name in wanted} if wanted else outputs,
        response,
        raw=bool(request.raw_input_contents),
        datatypes={spec.name: spec.datatype for spec in entry.metadata.outputs},
    )
    return response


def _model_id(context: "_Context", name: str) -> tuple[str, bool]:
    """Returns: the id of the model that is asked, and whether the mesh has said it."""
    metadata = dict(context.invocation_metadata() or ())
    if binary := metadata.get("mm-model-id-bin"):
        return (binary if isinstance(binary, str) else binary.decode(errors="replace")), True
    if plain := metadata.get("mm-model-id"):
        return (plain if isinstance(plain, str) else plain.decode(errors="replace")), True
    return name, False


def _trace(context: "_Context") -> Mapping[str, str]:
    metadata = context.invocation_metadata() or ()
    return {name: str(value) for name, value in metadata if name in {"traceparent", "tracestate"}}


def _tensor_metadata(specs: Iterable[TensorSpec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        for spec in specs
    ]


async def _abort(context: "_Context", failure: RuntimeFailure) -> NoReturn:
    if failure.code is grpc.StatusCode.INTERNAL:
        _log.error("request failed: %s", failure, exc_info=failure.__cause__)
    await context.abort(failure.code, failure.message)
    raise AssertionError("abort does not return")
