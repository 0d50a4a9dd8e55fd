"""A model's size is what its owner declared, else what was learned of it, and tells where it goes."""

import asyncio
import urllib.request

import grpc
import pytest

from mesh.instance import MetricsSettings
from mesh.placement import UNIT_BYTES, CopyPolicy
from mesh.registry import ModelRecord
from tests.instance.meshes import Client, Mesh, eventually
from tests.instance.scripted_runtime import MIB, ScriptedRuntime


async def declare(mesh: Mesh, model_id: str, size_bytes: int) -> None:
    """Sets a model's declared size, and waits until every instance has heard of it."""
    policy = CopyPolicy(declared_size_bytes=size_bytes).members()

    def change(record: ModelRecord | None) -> ModelRecord | None:
        return None if record is None else record.but(policy=policy)

    await mesh.instances[0].registry.models.update(model_id, change)
    await eventually(
        lambda: all(instance.registry.models[model_id].policy == policy for instance in mesh.instances)
    )


async def summaries(client: Client, model_id: str) -> str:
    return "\n".join(decision.summary for decision in await client.explain(model_id))


async def metrics(port: int) -> str:
    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            return str(reply.read(), "utf-8")

    return await asyncio.to_thread(get)


async def test_what_was_learned_on_one_instance_counts_on_the_next(mesh: Mesh, unused_tcp_port: int) -> None:
    small = ScriptedRuntime(mesh.socket(), capacity=32 * MIB, size=MIB)
    client = await mesh.add(small, metrics=MetricsSettings(port=unused_tcp_port))
    small.true_sizes["m"] = 12 * MIB
    await client.register("m")
    await client.infer("m")
    text = await metrics(unused_tcp_port)
    assert 'modelmesh_model_size_misjudged{estimate="low",source="predicted"} 1.0' in text
    assert "takes 12.0 MiB, the predicted size was 1.0 MiB" in await summaries(client, "m")
    # Evicted for the second of these, it leaves its size behind.
    for number in range(2):
        small.sizes[f"large{number}"] = 14 * MIB
        await client.register(f"large{number}")
        await client.infer(f"large{number}")
    await eventually(lambda: "m" not in small.loaded)

    roomy = ScriptedRuntime(mesh.socket(), capacity=64 * MIB, size=MIB)
    roomy.true_sizes["m"] = 12 * MIB
    other = await mesh.add(roomy)
    await mesh.settle()
    await eventually(lambda: mesh.instances[1].registry.models["m"].size_units > 0)
    model = await other.describe("m")
    assert (model.size_bytes, model.size_source) == (12 * MIB, "learned")
    assert await client.infer("m") == b"m:x"
    assert "m" in roomy.loaded
    assert roomy.predictions["m"] == 0
    assert "it takes 12.0 MiB (learned)" in await summaries(client, "m")
    assert "takes 12.0 MiB, the learned size" not in await summaries(other, "m")


async def test_a_declared_size_decides_whatever_the_model_server_says(
    mesh: Mesh, unused_tcp_port: int
) -> None:
    small = ScriptedRuntime(mesh.socket(), capacity=32 * MIB, size=MIB)
    large = ScriptedRuntime(mesh.socket(), capacity=64 * MIB, size=MIB)
    client = await mesh.add(small)
    await mesh.add(large, metrics=MetricsSettings(port=unused_tcp_port))
    await mesh.settle()
    for model_id in ("a", "b", "c"):
        await client.register(model_id)
        await declare(mesh, model_id, 40 * MIB)
    model = await client.describe("a")
    assert (model.size_bytes, model.size_source) == (40 * MIB, "declared")
    assert await client.infer("a") == b"a:x"
    assert "a" in large.loaded
    (copy,) = (await client.describe("a")).copies
    assert copy.size_bytes == 40 * MIB
    assert "takes 1.0 MiB, the declared size was 40.0 MiB, which is counted further" in await summaries(
        client, "a"
    )
    assert 'modelmesh_model_size_misjudged{estimate="high",source="declared"} 1.0' in await metrics(
        unused_tcp_port
    )
    # There is room for one of them only, however small the model server thinks they are.
    assert await client.infer("b") == b"b:x"
    await eventually(lambda: large.loaded == {"b"})

    await declare(mesh, "c", 100 * MIB)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.infer("c")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "is smaller than the model, 100.0 MiB" in str(refused.value.details())


async def test_memory_taken_beyond_what_there_is_shows_until_it_has_been_made_up_for(
    mesh: Mesh, unused_tcp_port: int
) -> None:
    runtime = ScriptedRuntime(mesh.socket(), capacity=32 * MIB, size=MIB)
    client = await mesh.add(runtime, metrics=MetricsSettings(port=unused_tcp_port))
    for model_id in ("busy", "large"):
        runtime.true_sizes[model_id] = 20 * MIB
        await client.register(model_id)
    stream = client.open_stream("busy")
    await stream.write(b"1")
    assert await stream.read() == b"busy:1"
    assert await client.infer("large") == b"large:x"

    async def deficit() -> float:
        lines = (await metrics(unused_tcp_port)).splitlines()
        name = "modelmesh_instance_memory_deficit_bytes "
        return float(next(line for line in lines if line.startswith(name)).removeprefix(name))

    assert await deficit() == 8 * MIB
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF

    async def made_up_for() -> bool:
        return await deficit() == 0

    await eventually(made_up_for, 20)


async def test_a_model_server_that_comes_back_larger_or_smaller_is_used_as_it_is_now(mesh: Mesh) -> None:
    runtime = ScriptedRuntime(mesh.socket(), capacity=32 * MIB, size=MIB)
    client = await mesh.add(runtime)
    observer = await mesh.add(router=True)
    await mesh.settle()
    runtime.sizes["large"] = 60 * MIB
    await client.register("large")
    await client.register("small")
    await client.infer("small")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.infer("large")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    def seen_capacity() -> int:
        record = mesh.instances[1].registry.instances[mesh.instances[0].settings.instance_id]
        return record.capacity * UNIT_BYTES

    async def restart(capacity: int) -> None:
        await runtime.stop()
        await eventually(lambda: seen_capacity() == 0)
        runtime.capacity = capacity
        await runtime.start()
        # Less the memory that is kept free for unloads.
        await eventually(lambda: 0.85 * capacity < seen_capacity() <= capacity)

    await restart(128 * MIB)
    await client.unregister("large")
    await client.register("large")
    assert await observer.infer("large") == b"large:x"
    assert await observer.infer("small") == b"small:x"

    await restart(16 * MIB)
    assert await observer.infer("small") == b"small:x"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await observer.infer("large")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert runtime.loaded == {"small"}


async def test_a_size_that_is_declared_later_counts_for_the_copies_that_are_there(mesh: Mesh) -> None:
    runtime = ScriptedRuntime(mesh.socket(), capacity=32 * MIB, size=MIB)
    client = await mesh.add(runtime)
    for model_id in ("other", "grows"):
        await client.register(model_id)
        await client.infer(model_id)
    await declare(mesh, "grows", 31 * MIB)
    await eventually(lambda: runtime.loaded == {"grows"}, 20)
    (copy,) = (await client.describe("grows")).copies
    assert copy.size_bytes == 31 * MIB
    await declare(mesh, "grows", 0)
    (copy,) = (await client.describe("grows")).copies
    assert copy.size_bytes == MIB
