"""Requests for several models: the same bytes to each, and one answer."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.dataplane import Ask
from mesh.protos import inference_pb2
from tests.dataplane.harness import (
    TIMEOUT,
    Metadata,
    Plane,
    begin,
    call,
    channel,
    failure,
    planes,
    talk,
    until,
)
from tests.dataplane.runtime import DETAILS, Runtime

NOT_FOUND = grpc.StatusCode.NOT_FOUND


def models(ids: Iterable[str], *more: tuple[str, str]) -> Metadata:
    return (*(("mm-model-id", model_id) for model_id in ids), *more)


@pytest.fixture
def routed(plane: Plane) -> Plane:
    """Copies of the models ``a`` to ``j`` at the local runtime; other models are not known."""
    (endpoint,) = plane.plane.route("m")
    for model_id in "abcdefghij":
        plane.plane.set_route(model_id, [endpoint])
    plane.decide = lambda ask: plane.plane.answer_status(ask.token, 5, f"{ask.model_id} is not known")
    return plane


@pytest.mark.parametrize("ids", ["ab", "ba", "abcdefghij", "aba"])
async def test_the_answers_come_in_the_order_of_the_ids(
    client: grpc.aio.Channel, routed: Plane, runtime: Runtime, ids: str
) -> None:
    answer = await call(client, "Model", b"x", metadata=models(ids))
    assert answer == b"".join(b"x" + model_id.encode() for model_id in ids)
    assert sorted(str(seen["mm-model-id"]) for seen in runtime.seen) == sorted(ids)


async def test_joined_messages_are_their_merge(
    client: grpc.aio.Channel, routed: Plane, runtime: Runtime
) -> None:
    for model_id in "abc":
        part = inference_pb2.ModelInferResponse(model_name=model_id)
        part.outputs.add(name=f"of {model_id}", datatype="FP32")
        runtime.models[model_id] = part.SerializeToString()
    answer = await call(client, "Model", metadata=models("cab"))
    merged = inference_pb2.ModelInferResponse.FromString(answer)
    assert [output.name for output in merged.outputs] == ["of c", "of a", "of b"]
    assert merged.model_name == "b"


async def test_ids_in_binary_headers_and_of_vmodels(client: grpc.aio.Channel, routed: Plane) -> None:
    (endpoint,) = routed.plane.route("m")
    routed.plane.set_route("modèle", [endpoint])
    routed.plane.set_alias("v", [("a", 1)])
    binary = (("mm-model-id-bin", "modèle".encode()), ("mm-model-id-bin", b"b"))
    assert await call(client, "Model", b"", metadata=binary) == "modèleb".encode()
    vmodels = (("mm-vmodel-id", "v"), ("mm-vmodel-id", "unknown"), ("mm-vmodel-id", "v"))
    assert await call(client, "Model", b"", metadata=vmodels) == b"aa"
    error = await failure(call(client, "Model", metadata=(*models("ab"), *vmodels)))
    assert error.details() == "must include only one of model id and vmodel id"


async def test_models_that_are_not_there_are_left_out(client: grpc.aio.Channel, routed: Plane) -> None:
    assert await call(client, "Model", b"", metadata=models(["x", "b", "y", "a"])) == b"ba"
    for word in ("any", "none", ""):
        assert await call(client, "Model", b"", metadata=models(["x", "b"], ("mm-required", word))) == b"b"
    error = await failure(call(client, "Model", metadata=models(["x", "y"])))
    assert (error.code(), error.details()) == (NOT_FOUND, "none of the requested models were found")


async def test_a_model_that_is_not_there_fails_the_request_where_all_are_required(
    client: grpc.aio.Channel, routed: Plane, runtime: Runtime
) -> None:
    runtime.models["a"] = None
    error = await failure(call(client, "Model", metadata=models(["a", "x", "b"], ("mm-required", "all"))))
    assert (error.code(), error.details()) == (NOT_FOUND, "x is not known")
    await until(lambda: runtime.running == 0)
    assert await call(client, "Model", b"", metadata=models("bc", ("mm-required", "ALL"))) == b"bc"


async def test_a_failure_is_the_requests_and_withdraws_the_rest(
    client: grpc.aio.Channel, routed: Plane, runtime: Runtime
) -> None:
    runtime.models |= {"a": None, "b": None, "c": grpc.StatusCode.FAILED_PRECONDITION}
    error = await failure(call(client, "Model", metadata=models("abcdef")))
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "no c today")
    trailers = dict(error.trailing_metadata() or ())
    assert (trailers["last"], trailers["grpc-status-details-bin"]) == ("2", DETAILS)
    await until(lambda: runtime.cancelled == 2)
    assert all(routed.plane.local_in_flight(model_id) == 0 for model_id in "abcdef")
    # A model that its server does not know is another matter than one that nobody knows.
    runtime.models["c"] = NOT_FOUND
    error = await failure(call(client, "Model", metadata=models("ce")))
    assert (error.code(), error.details()) == (NOT_FOUND, "no c today")


@pytest.mark.parametrize("most", [1, 3, 4])
async def test_only_so_many_are_asked_at_once(runtime: Runtime, most: int) -> None:
    async with planes(multi_parallelism=most) as (made,), channel(made.clients) as client:
        endpoint = made.runtime(runtime.address)
        ids = [f"m{number}" for number in range(7)]
        for model_id in ids:
            made.plane.set_route(model_id, [endpoint])
        answer = asyncio.create_task(call(client, "Wait", b".", metadata=models(ids)))
        await until(lambda: runtime.running == most)
        await asyncio.sleep(0.05)
        assert runtime.running == most
        runtime.release.set()
        assert await answer == b"......."
        assert runtime.most_running == most


async def test_the_client_gives_up(client: grpc.aio.Channel, routed: Plane, runtime: Runtime) -> None:
    waiting = begin(client, "Wait", metadata=models("abc"))
    await until(lambda: runtime.running == 3)
    waiting.cancel()
    await until(lambda: runtime.cancelled == 3)
    late = await failure(call(client, "Wait", metadata=models("abc"), timeout=0.5))
    assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: runtime.cancelled == 6)
    assert all(left is not None and left < 0.6 for left in runtime.time_left[3:])


async def test_each_model_is_asked_about_by_itself(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    (endpoint,) = plane.plane.route("m")
    answer = asyncio.create_task(call(client, "Model", b"", metadata=models(["new", "m", "other"])))
    await plane.asked(2)
    asks = {ask.model_id: ask for ask in plane.asks}
    assert asks.keys() == {"new", "other"}
    assert {ask.reason for ask in plane.asks} == {"no_route"}
    plane.plane.answer_endpoint(asks["other"].token, endpoint)
    plane.plane.set_route("new", [endpoint])
    plane.plane.answer_route(asks["new"].token)
    assert await answer == b"newmother"


async def test_models_of_a_peer(runtime: Runtime) -> None:
    async with planes(2) as (entry, holder), channel(entry.clients) as client:
        there, here = holder.runtime(runtime.address), entry.runtime(runtime.address)
        peer = entry.peer(holder)
        for model_id in "ab":
            entry.plane.set_route(model_id, [peer])
            holder.plane.set_route(model_id, [there])
        entry.plane.set_route("c", [here])
        required = ("mm-required", "all")
        assert await call(client, "Model", b"", metadata=models("acb", required)) == b"acb"
        assert entry.plane.totals().forwarded == 2
        assert not any("mm-required" in seen for seen in runtime.seen)
        # The peer has lost its copy; what it says leads to an ask here.
        holder.plane.remove_route("a")
        holder.decide = lambda ask: holder.plane.answer_not_here(ask.token)
        entry.decide = lambda ask: entry.plane.answer_endpoint(ask.token, here)
        assert await call(client, "Model", b"", metadata=models("acb")) == b"acb"
        assert [ask.reason for ask in entry.asks] == ["not_here"]


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
async def test_compressed_messages(compression: grpc.Compression | None) -> None:
    options = [("grpc.default_compression_algorithm", 2), ("grpc.default_compression_level", 2)]
    async with Runtime(options=options) as runtime, planes() as (made,), channel(made.clients) as client:
        endpoint = made.runtime(runtime.address)
        made.plane.set_runtime_methods({"test.Echo/Unary": [1]})
        for model_id in "ab":
            made.plane.set_route(model_id, [endpoint])
        request = inference_pb2.ModelInferRequest(id="i" * 5_000).SerializeToString()
        answer = await call(client, "Unary", request, metadata=models("ab"), compression=compression)
        # Each model's server found its own id in the message.
        parts = [
            inference_pb2.ModelInferRequest(model_name=name, id="i" * 5_000).SerializeToString()
            for name in "ab"
        ]
        assert sorted(answer) == sorted(b"".join(parts))
        assert inference_pb2.ModelInferRequest.FromString(answer).model_name == "b"


async def test_sizes(runtime: Runtime) -> None:
    async with planes(max_message_bytes=100_000) as (made,), channel(made.clients) as client:
        endpoint = made.runtime(runtime.address)
        for model_id in "abc":
            made.plane.set_route(model_id, [endpoint])
        assert len(await call(client, "Grow", b"33000", metadata=models("abc"))) == 99_000
        error = await failure(call(client, "Grow", b"34000", metadata=models("abc")))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "the models' answers make a message larger than max (102000 vs. 100000)"
        error = await failure(call(client, "Grow", b"100001", metadata=models("ab")))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await call(client, "Unary", b"", metadata=models("abc")) == b""
        assert await call(client, "Unary", bytes(30_000), metadata=models("abc")) == bytes(90_000)
        error = await failure(call(client, "Unary", bytes(100_001), metadata=models("ab")))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_streams_are_refused(client: grpc.aio.Channel, routed: Plane) -> None:
    stream = talk(client, iter([b"one", b"two"]), models("ab"))
    error = await failure(anext(aiter(stream)))
    assert (error.code(), error.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "a unary call needs exactly one whole message",
    )
    several = await failure(call(client, "Spread", b"two", metadata=models("ab")))
    assert (several.code(), several.details()) == (
        grpc.StatusCode.UNKNOWN,
        "the model's answer is not exactly one message, as that of a unary call is",
    )


async def test_a_stream_without_end_is_not_kept(runtime: Runtime) -> None:
    async with planes(max_message_bytes=50_000) as (made,), channel(made.clients) as client:

        async def without_end() -> AsyncIterator[bytes]:
            # One by one, since a client that writes when it is told of the refusal makes an error of its own of it.
            yield bytes(50_000)
            await until(lambda: made.plane.totals().retained_bytes == 50_005)
            yield b"1"
            await until(lambda: made.plane.totals().retained_bytes == 50_011)
            yield b"2"
            await asyncio.Event().wait()

        error = await failure(anext(aiter(talk(client, without_end(), models("ab")))))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_copy_with_limited_concurrency(
    client: grpc.aio.Channel, routed: Plane, runtime: Runtime
) -> None:
    (endpoint,) = routed.plane.route("m")
    routed.plane.set_route("a", [endpoint], max_concurrency=1, max_queued=1)
    answer = asyncio.create_task(call(client, "Wait", b".", metadata=models("aab")))
    await until(lambda: (runtime.running, routed.plane.totals().queued) == (2, 1))
    error = await failure(call(client, "Wait", metadata=models("ab")))
    assert error.details() == "Model queue overload"
    runtime.release.set()
    assert await answer == b"..."


async def test_counts_as_one_request(client: grpc.aio.Channel, routed: Plane) -> None:
    await call(client, "Grow", b"200", metadata=models("abc"))
    samples = {sample.name: sample for sample in routed.plane.take_histograms()}
    assert sum(samples["api_request_milliseconds"].buckets) == 1
    assert samples["request_size_bytes"].sum == 3
    assert samples["response_size_bytes"].sum == 600
    assert sum(samples["invoke_model_milliseconds"].buckets) == 3
    assert routed.plane.totals().requests == 1


async def test_a_failure_is_logged_with_the_model_whose_it_is(
    client: grpc.aio.Channel, routed: Plane, runtime: Runtime
) -> None:
    routed.plane.set_logging(each_invocation=True, headers=[("x-user", "user")])
    runtime.models["c"] = grpc.StatusCode.ABORTED
    await failure(call(client, "Model", metadata=models("bc", ("x-user", "me"))))
    await failure(call(client, "Model", metadata=(("mm-vmodel-id", "v"), ("mm-vmodel-id", "w"))))
    entries, missed = routed.plane.take_log()
    assert missed == 0
    assert {entry.model_id for entry in entries if entry.kind == "invoked"} == {"b", "c"}
    models_failed, vmodels_failed = (entry for entry in entries if entry.kind == "failed")
    assert (models_failed.model_id, models_failed.vmodel_id) == ("b,c", "")
    assert (models_failed.code, models_failed.message) == ("ABORTED", "model c: no c today")
    assert models_failed.context == {"user": "me"}
    assert (vmodels_failed.model_id, vmodels_failed.vmodel_id) == ("", "v,w")
    assert vmodels_failed.message == "none of the requested models were found"


IDS = st.lists(st.sampled_from(["a", "b", "c", "x", "y", "bad"]), min_size=2, max_size=9)


def test_any_request_ends_as_its_models_say() -> None:
    async def check(asked: list[list[str]], required: bool) -> None:
        async with Runtime() as runtime, planes() as (made,), channel(made.clients) as client:
            endpoint = made.runtime(runtime.address)
            runtime.models["bad"] = grpc.StatusCode.ABORTED
            for model_id in ("a", "b", "c", "bad"):
                made.plane.set_route(model_id, [endpoint])

            def decide(ask: Ask) -> None:
                made.plane.answer_status(ask.token, 5, "not known")

            made.decide = decide

            async def outcome(ids: list[str]) -> bytes | grpc.StatusCode:
                metadata = models(ids, ("mm-required", "all" if required else "any"))
                try:
                    return await call(client, "Model", b"", metadata=metadata)
                except grpc.aio.AioRpcError as error:
                    return error.code()

            for ids, got in zip(asked, await asyncio.gather(*map(outcome, asked)), strict=True):
                assert got in possible(ids, required), ids

    def possible(ids: list[str], required: bool) -> set[bytes | grpc.StatusCode]:
        missing = [model_id for model_id in ids if model_id in {"x", "y"}]
        ends: set[bytes | grpc.StatusCode] = set()
        if "bad" in ids:
            ends.add(grpc.StatusCode.ABORTED)
        if missing and (required or len(missing) == len(ids)):
            ends.add(NOT_FOUND)
        return ends or {"".join(model_id for model_id in ids if model_id not in missing).encode()}

    @settings(max_examples=15, deadline=None)
    @given(st.lists(IDS, max_size=8), st.booleans())
    def run(asked: list[list[str]], required: bool) -> None:
        asyncio.run(asyncio.wait_for(check(asked, required), TIMEOUT))

    run()
