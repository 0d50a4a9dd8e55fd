"""A runtime in Python served for real, in the test's own process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from grpc import aio

from mesh.protos import inference_pb2 as pb
from mesh.protos.inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.runtimes import RuntimeEndpoints, SpiRuntime
from mesh.runtimes.python import Capacity, PythonRuntime, RuntimeServer, ServerOptions


@dataclass
class Served:
    """How to reach it: as the mesh does, and as a client does."""

    address: str
    spi: SpiRuntime
    client: GRPCInferenceServiceStub


@asynccontextmanager
async def serving(
    runtime: PythonRuntime[Any],
    address: str = "127.0.0.1:0",
    capacity: Capacity | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    server = RuntimeServer(
        runtime, ServerOptions(address, capacity or Capacity(64 << 20), stop_grace_s=1.0, **options)
    )
    bound = await server.start()
    spi = SpiRuntime(RuntimeEndpoints((bound,)))
    async with aio.insecure_channel(bound) as channel:
        try:
            await spi.start()
            yield Served(bound, spi, GRPCInferenceServiceStub(channel))
        finally:
            await spi.close()
            await server.stop()


def request(name: str, values: list[float], shape: list[int] | None = None) -> pb.ModelInferRequest:
    """A request with one FP32 input ``x``."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=shape or [len(values)])
    tensor.contents.fp32_contents.extend(values)
    return pb.ModelInferRequest(model_name=name, inputs=[tensor])
