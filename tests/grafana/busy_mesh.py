"""A mesh in which everything happens that dashboards and rules tell of, over and over."""

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy

from mesh.instance import CopySettings, MetricsSettings, UpkeepSettings
from mesh.instance.settings import PayloadSettings, TracingSettings
from mesh.protos import admin_pb2
from tests.instance.meshes import Client, Mesh
from tests.instance.scripted_runtime import MIB, ScriptedRuntime
from tests.payload.inference import infer_request
from tests.servers.process import free_port
from tests.servers.prometheus import Target
from tests.servers.traces import Traces

NAMESPACE = "models"
SERVICE = "tests"
#: Pods as a Deployment for each runtime names them.
PODS = ("tests-mlserver-7c9d-a", "tests-triton-5f8b-b", "tests-triton-5f8b-c")
MODELS = tuple(f"model-{number}" for number in range(12))
#: Has to be measured once it is loaded.
MEASURED = MODELS[0]
#: Is larger than it was taken for.
LARGER = MODELS[1]
#: A method whose tensors are watched.
WATCHED = "inference.GRPCInferenceService/ModelInfer"
#: Fails to load.
BROKEN = "broken"
#: Has now one copy, now two.
SPREAD = "spread"


#: Where nothing listens.
_NOBODY = "http://127.0.0.1:1"
#: One that takes payloads, one that nobody answers for, and one that watches tensors.
_PROCESSORS = {
    "log": {"uri": "logger:", "models": [MEASURED]},
    "away": {"uri": _NOBODY, "models": [LARGER], "attempts": 1, "capacity": 2},
    "drift": {
        "uri": "monitor:",
        "methods": [WATCHED],
        "options": {"learn_rows": 100, "window": {"rows": 100, "fewest_rows": 20}},
    },
}


@asynccontextmanager
async def busy_mesh(mesh: Mesh, traces: Traces) -> AsyncIterator[list[Target]]:
    """Has ``mesh`` load, evict, fail, wait and serve until the end of the block; yields what is to be scraped."""
    targets = []
    clients = []
    processors = mesh.socket().with_name("processors.json")
    processors.write_text(json.dumps(_PROCESSORS))
    for pod, collector in zip(PODS, (_NOBODY, traces.http_url, traces.http_url), strict=True):
        # Room for three models of four MiB.
        runtime = ScriptedRuntime(mesh.socket(), capacity=14 * MIB, size=4 * MIB, limit_concurrency=2)
        runtime.load_delay_s = 0.05
        runtime.call_delay_s = 0.005
        # Told by the load itself for all others.
        runtime.true_sizes[MEASURED] = 0
        runtime.true_sizes[LARGER] = 7 * MIB
        runtime.refuse[BROKEN] = (grpc.StatusCode.INVALID_ARGUMENT, "no model in these bytes")
        port = free_port()
        clients.append(
            await mesh.add(
                runtime,
                instance_id=pod,
                metrics=MetricsSettings(port=port, per_model=True),
                copies=CopySettings(look_interval_ms=500),
                upkeep=UpkeepSettings(source_interval_s=3_600),
                payloads=PayloadSettings(file=str(processors)),
                tracing=TracingSettings(endpoint=collector, sampler="traceidratio", sampler_arg="0.1"),
            )
        )
        targets.append(Target(f"127.0.0.1:{port}", {"namespace": NAMESPACE, "pod": pod}))
    await mesh.settle()
    for model_id in (*MODELS, BROKEN, SPREAD):
        await clients[0].register(model_id)
    chance = random.Random(7)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_use(client, chance)) for client in clients for _ in range(4)]
        tasks.append(group.create_task(_break(clients[0])))
        tasks.append(group.create_task(_spread(clients[0])))
        tasks.append(group.create_task(_infer(clients[0])))
        try:
            yield targets
        finally:
            for task in tasks:
                task.cancel()


async def _use(client: Client, chance: random.Random) -> None:
    while True:
        # Refusals belong to what is shown.
        with contextlib.suppress(grpc.aio.AioRpcError):
            await client.infer(chance.choice(MODELS), b"x" * chance.randrange(10, 3_000))


async def _break(client: Client) -> None:
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await client.infer(BROKEN)
        # A failed load is not tried again at once; a new registration is.
        with contextlib.suppress(grpc.aio.AioRpcError):
            await client.unregister(BROKEN)
            await client.register(BROKEN)
        await asyncio.sleep(0.5)


async def _infer(client: Client) -> None:
    call: Any = client.channel.unary_unary(f"/{WATCHED}")
    values = numpy.random.default_rng(7)
    while True:
        request = infer_request(x=values.normal(size=(50, 3)).astype(numpy.float32))
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call(request.SerializeToString(), metadata=(("mm-model-id", MODELS[2]),), timeout=20)
        await asyncio.sleep(0.1)


async def _spread(client: Client) -> None:
    for copies in itertools.cycle((2, 1)):
        policy = admin_pb2.Policy(min_copies=copies, max_copies=copies)
        await client.admin.SetPolicy(
            admin_pb2.SetPolicyRequest(model_id=SPREAD, policy=policy, replace=True), timeout=20
        )
        await asyncio.sleep(1)
