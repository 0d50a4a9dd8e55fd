"""Vmodels whose requests are split over models, or mirrored to one."""

import asyncio
from collections import Counter

import grpc
import grpc.aio
import pytest

from mesh.dataplane import Comparison
from mesh.protos import inference_pb2
from tests.dataplane.harness import Plane, begin, call, channel, failure, planes, talk, until
from tests.dataplane.runtime import Runtime

VMODEL = (("mm-vmodel-id", "v"),)


@pytest.fixture
def routed(plane: Plane) -> Plane:
    """Copies of ``blue``, ``green`` and ``shadow`` at the local runtime."""
    (endpoint,) = plane.plane.route("m")
    for model_id in ("blue", "green", "shadow"):
        plane.plane.set_route(model_id, [endpoint])
    return plane


async def compared(plane: Plane, requests: int) -> Comparison:
    """The tally of the vmodel once so many requests are in it."""
    total: Counter[str] = Counter()
    last: list[Comparison] = []

    def done() -> bool:
        for one in plane.plane.take_comparisons():
            assert one.compared == one.equal + one.different
            last.append(one)
            for name in ("compared", "shadow_failed", "primary_failed", "dropped"):
                total[name] += getattr(one, name)
        return total.total() >= requests

    await until(done)
    assert total.total() == requests
    (only,) = last if len(last) == 1 else (last[-1],)
    return only


@pytest.mark.parametrize("weights", [(90, 10), (1, 1), (3, 0), (0, 3), (1, 2**31)])
async def test_requests_are_split_by_weight(
    client: grpc.aio.Channel, routed: Plane, runtime: Runtime, weights: tuple[int, int]
) -> None:
    routed.plane.set_alias("v", list(zip(("blue", "green"), weights, strict=True)))
    answers = Counter([await call(client, "Model", b"", metadata=VMODEL) for _ in range(100)])
    for model, weight in zip((b"blue", b"green"), weights, strict=True):
        assert abs(answers[model] - 100 * weight / sum(weights)) <= 2
    await until(lambda: len(runtime.seen) == 100)


async def test_streams_are_split_as_wholes(client: grpc.aio.Channel, routed: Plane, runtime: Runtime) -> None:
    routed.plane.set_alias("v", [("blue", 1), ("green", 1)])
    for _ in range(4):
        parts = [part async for part in talk(client, iter([b"one", b"two"]), VMODEL)]
        assert parts == [b"one", b"two"]
    assert Counter(seen["mm-model-id"] for seen in runtime.seen) == {"blue": 2, "green": 2}


async def test_a_request_stays_with_its_model_while_that_is_loaded(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    (endpoint,) = plane.plane.route("m")
    plane.plane.set_alias("v", [("blue", 1), ("green", 1)])
    answers = [asyncio.create_task(call(client, "Model", b"", metadata=VMODEL)) for _ in range(6)]
    await plane.asked(2)
    await until(lambda: plane.plane.totals().waiting == 6)
    asks = {ask.resolved_id: ask for ask in plane.asks}
    assert asks.keys() == {"blue", "green"}
    assert len(plane.asks) == 2
    assert all(ask.is_vmodel and ask.model_id == "v" for ask in plane.asks)
    for model_id, ask in asks.items():
        plane.plane.set_route(model_id, [endpoint])
        plane.plane.answer_route(ask.token)
    assert Counter(await asyncio.gather(*answers)) == {b"blue": 4, b"green": 2}


async def test_a_request_leaves_a_model_that_the_vmodel_has_left(
    client: grpc.aio.Channel, plane: Plane
) -> None:
    (endpoint,) = plane.plane.route("m")
    plane.plane.set_alias("v", [("blue", 1), ("green", 1)])
    answers = [asyncio.create_task(call(client, "Model", b"", metadata=VMODEL)) for _ in range(2)]
    await plane.asked(2)
    plane.plane.set_alias("v", [("green", 1), ("red", 1)], mirror=("blue", 0.5))
    for model_id in ("blue", "green", "red"):
        plane.plane.set_route(model_id, [endpoint])
    for ask in plane.asks:
        plane.plane.answer_route(ask.token)
    assert set(await asyncio.gather(*answers)) <= {b"green", b"red"}


async def test_a_shadow_that_agrees(client: grpc.aio.Channel, routed: Plane, runtime: Runtime) -> None:
    routed.plane.set_alias("v", [("blue", 1)], mirror=("shadow", 1.0))
    for model_id in ("blue", "shadow"):
        # Each names itself, as model servers do.
        response = inference_pb2.ModelInferResponse(model_name=model_id, id="7")
        runtime.models[model_id] = response.SerializeToString()
    assert await call(client, "Model", b"in", metadata=(*VMODEL, ("x-user", "me"))) == runtime.models["blue"]
    told = await compared(routed, 1)
    assert (told.vmodel_id, told.model_id) == ("v", "shadow")
    assert (told.equal, told.different, told.differences) == (1, 0, [])
    assert told.primary_ms > 0
    assert told.shadow_ms > 0
    first, second = runtime.seen
    assert (first.pop("mm-model-id"), second.pop("mm-model-id")) == ("blue", "shadow")
    assert (first["x-user"], second["x-user"]) == ("me", "me")
    assert routed.plane.take_comparisons() == []
    # Clients asked once, model servers were asked twice.
    samples = {sample.name: sum(sample.buckets) for sample in routed.plane.take_histograms()}
    assert (samples["api_request_milliseconds"], samples["invoke_model_milliseconds"]) == (1, 2)
    assert routed.plane.totals().requests == 1


async def test_a_shadow_that_differs(client: grpc.aio.Channel, routed: Plane, runtime: Runtime) -> None:
    routed.plane.set_alias("v", [("blue", 1)], mirror=("shadow", 1.0))
    runtime.models |= {"blue": b"\x2a\x03cat", "shadow": b"\x2a\x05tiger"}
    for _ in range(20):
        assert await call(client, "Model", b"in", metadata=VMODEL) == b"\x2a\x03cat"
    await until(lambda: routed.plane.totals().shadows == 0)
    (told,) = routed.plane.take_comparisons()
    assert (told.compared, told.equal, told.different) == (20, 0, 20)
    # Some are told one by one.
    assert len(told.differences) == 8
    one = told.differences[0]
    assert (one.method, one.model_id) == ("test.Echo/Model", "blue")
    assert (one.primary_bytes, one.shadow_bytes, one.shadow_code) == (5, 7, 0)
    assert min(one.primary_ms, one.shadow_ms) > 0


async def test_a_shadow_that_fails(client: grpc.aio.Channel, routed: Plane, runtime: Runtime) -> None:
    routed.plane.set_alias("v", [("blue", 1)], mirror=("shadow", 1.0))
    runtime.models["shadow"] = grpc.StatusCode.INTERNAL
    assert await call(client, "Model", b"in", metadata=VMODEL) == b"inblue"
    told = await compared(routed, 1)
    assert (told.shadow_failed, told.compared) == (1, 0)
    (one,) = told.differences
    assert (one.shadow_code, one.shadow_message) == (13, "no shadow today")


async def test_a_failure_is_not_mirrored(client: grpc.aio.Channel, routed: Plane, runtime: Runtime) -> None:
    routed.plane.set_alias("v", [("blue", 1)], mirror=("shadow", 1.0))
    runtime.models["blue"] = grpc.StatusCode.ABORTED
    assert (await failure(call(client, "Model", metadata=VMODEL))).code() == grpc.StatusCode.ABORTED
    runtime.models["blue"] = None
    waiting = begin(client, "Model", metadata=VMODEL)
    await until(lambda: runtime.running == 1)
    waiting.cancel()
    assert (await compared(routed, 2)).primary_failed >= 1
    assert {seen["mm-model-id"] for seen in runtime.seen} == {"blue"}


async def test_streams_are_not_mirrored(client: grpc.aio.Channel, routed: Plane, runtime: Runtime) -> None:
    routed.plane.set_alias("v", [("blue", 1)], mirror=("shadow", 1.0))
    assert [part async for part in talk(client, iter([b"one", b"two"]), VMODEL)] == [b"one", b"two"]
    spread: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = client.unary_stream("/test.Echo/Spread")
    assert [part async for part in spread(b"abc", metadata=VMODEL)] == [b"a", b"b", b"c"]
    metadata = (("mm-vmodel-id", "v"), ("mm-vmodel-id", "v"))
    assert await call(client, "Model", b"", metadata=metadata) == b"blueblue"
    assert (await compared(routed, 2)).dropped >= 1
    assert not any(seen.get("mm-model-id") == "shadow" for seen in runtime.seen)


async def test_a_share_is_mirrored(client: grpc.aio.Channel, routed: Plane) -> None:
    routed.plane.set_alias("v", [("blue", 1), ("green", 1)], mirror=("shadow", 0.25))
    answers = Counter([await call(client, "Model", b"", metadata=VMODEL) for _ in range(80)])
    assert answers == {b"blue": 40, b"green": 40}
    await until(lambda: routed.plane.totals().shadows == 0)
    (told,) = routed.plane.take_comparisons()
    assert 18 <= told.different <= 22
    by_model = Counter(difference.model_id for difference in told.differences)
    assert by_model.keys() == {"blue", "green"}


async def test_nobody_waits_for_a_shadow(client: grpc.aio.Channel, routed: Plane, runtime: Runtime) -> None:
    routed.plane.set_alias("v", [("blue", 1)], mirror=("shadow", 1.0))
    runtime.models["shadow"] = None
    await asyncio.gather(*(call(client, "Model", b"", metadata=VMODEL) for _ in range(70)))
    await until(lambda: runtime.running == 64)
    totals = routed.plane.totals()
    assert (totals.streams, totals.shadows) == (0, 64)
    assert (await compared(routed, 6)).dropped >= 1
    runtime.release.set()
    await until(lambda: routed.plane.totals().shadows == 0)
    (told,) = routed.plane.take_comparisons()
    assert told.compared == 64


async def test_only_so_many_bytes_are_kept_for_shadows(
    client: grpc.aio.Channel, routed: Plane, runtime: Runtime
) -> None:
    routed.plane.set_alias("v", [("blue", 1)], mirror=("shadow", 1.0))
    runtime.models |= {"shadow": None, "blue": bytes(14 << 20)}
    for number in range(6):
        await call(client, "Model", bytes(1 << 20), metadata=VMODEL)
        await until(lambda number=number: runtime.running == min(4, number + 1))  # type: ignore[misc]
    assert routed.plane.totals().shadow_bytes <= 64 << 20
    assert (await compared(routed, 2)).dropped >= 1
    runtime.release.set()
    await until(lambda: routed.plane.totals().shadow_bytes == 0)


async def test_a_shadow_that_has_no_copy_is_asked_about(
    client: grpc.aio.Channel, routed: Plane, runtime: Runtime
) -> None:
    (endpoint,) = routed.plane.route("m")
    routed.plane.set_alias("v", [("blue", 1)], mirror=("cold", 1.0))
    assert await call(client, "Model", b"", metadata=VMODEL) == b"blue"
    ask = await routed.asked()
    assert (ask.model_id, ask.is_vmodel, ask.reason) == ("cold", False, "no_route")
    routed.plane.set_route("cold", [endpoint])
    routed.plane.answer_route(ask.token)
    assert (await compared(routed, 1)).different == 1
    # One that nobody knows fails and harms nobody.
    routed.plane.set_alias("v", [("blue", 1)], mirror=("nobody", 1.0))
    routed.decide = lambda ask: routed.plane.answer_status(ask.token, 5, "model not found")
    assert await call(client, "Model", b"", metadata=VMODEL) == b"blue"
    told = await compared(routed, 1)
    assert [(one.shadow_code, one.shadow_message) for one in told.differences] == [(5, "model not found")]


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
async def test_shadows_at_peers_and_compressed_messages(compression: grpc.Compression | None) -> None:
    options = [("grpc.default_compression_algorithm", 2), ("grpc.default_compression_level", 2)]
    async with Runtime(options=options) as runtime, planes(2) as (entry, holder):
        async with channel(entry.clients) as client:
            entry.plane.set_route("blue", [entry.runtime(runtime.address)])
            entry.plane.set_route("shadow", [entry.peer(holder)])
            holder.plane.set_route("shadow", [holder.runtime(runtime.address)])
            entry.plane.set_alias("v", [("blue", 1)], mirror=("shadow", 1.0))
            request = bytes(100_000)
            answer = await call(client, "Unary", request, metadata=VMODEL, compression=compression)
            assert answer == request
            assert (await compared(entry, 1)).equal == 1
        assert entry.plane.totals().forwarded == 1
        assert holder.plane.take_comparisons() == []


@pytest.mark.parametrize(
    ("targets", "mirror", "message"),
    [
        ([], None, "targets: there must be a model with a weight above 0"),
        ([("a", 0)], None, "targets: there must be a model with a weight above 0"),
        ([("a", -1)], None, 'targets: weight -1 of "a" is not in 0 to 4294967295'),
        ([("", 1)], None, "targets: an id must not be empty"),
        ([("a", 1)], ("b", 0.0), "mirror: share 0 is not above 0 and at most 1"),
        ([("a", 1)], ("b", 1.5), "mirror: share 1.5 is not above 0 and at most 1"),
        ([("a", 1)], ("b", float("nan")), "mirror: share NaN is not above 0 and at most 1"),
        ([("a", 1)], ("", 1.0), "mirror: an id must not be empty"),
    ],
)
async def test_aliases_that_make_no_sense(
    client: grpc.aio.Channel,
    routed: Plane,
    targets: list[tuple[str, int]],
    mirror: tuple[str, float] | None,
    message: str,
) -> None:
    routed.plane.set_alias("v", [("blue", 1)])
    with pytest.raises(ValueError, match=message):
        routed.plane.set_alias("v", targets, mirror)
    # What was there before stays.
    assert await call(client, "Model", b"", metadata=VMODEL) == b"blue"
