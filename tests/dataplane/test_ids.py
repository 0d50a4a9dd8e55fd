"""Which model a request is for: headers, ids inside messages, vmodels; and what the runtime is told."""

import asyncio

import grpc
import grpc.aio
import pytest

from mesh.protos import inference_pb2
from tests.dataplane.harness import Metadata, Plane, call, failure, talk
from tests.dataplane.runtime import Runtime

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("metadata", "code", "message"),
    [
        ((), INVALID, "must include mm-model-id header"),
        ((("mm-model-id", ""),), INVALID, "provided model-id header must be non-empty"),
        ((("mm-vmodel-id", ""),), INVALID, "provided vmodel-id header must be non-empty"),
        (
            (("mm-model-id", "m"), ("mm-vmodel-id", "v")),
            INVALID,
            "must include only one of model id and vmodel id",
        ),
        ((("mm-model-id-bin", b"\xff"),), INVALID, "provided model-id header must be UTF-8"),
        (
            (("mm-model-id", "m"), ("mm-model-id", "")),
            INVALID,
            "provided model-id header must be non-empty",
        ),
    ],
)
async def test_ids_that_are_refused(
    client: grpc.aio.Channel, metadata: Metadata, code: grpc.StatusCode, message: str
) -> None:
    error = await failure(call(client, "Unary", metadata=metadata))
    assert (error.code(), error.details()) == (code, message)


@pytest.mark.parametrize(
    "metadata",
    [(("mm-model-id", "m"),), (("mm-model-id-bin", b"m"),), (("tas-model-id", "m"),)],
)
async def test_ids_in_headers(client: grpc.aio.Channel, metadata: Metadata) -> None:
    assert await call(client, "Unary", metadata=metadata) == b"hello"


async def test_an_id_that_is_not_ascii(client: grpc.aio.Channel, plane: Plane, runtime: Runtime) -> None:
    plane.plane.set_route("modèle", [plane.runtime(runtime.address)])
    await call(client, "Unary", metadata=(("mm-model-id-bin", "modèle".encode()),))
    (seen,) = runtime.seen
    assert seen["mm-model-id-bin"] == "modèle".encode()
    assert "mm-model-id" not in seen


async def test_a_vmodel_leads_to_its_model(client: grpc.aio.Channel, plane: Plane, runtime: Runtime) -> None:
    plane.plane.set_alias("v", [("m", 1)])
    assert await call(client, "Unary", metadata=(("mm-vmodel-id", "v"),)) == b"hello"
    assert runtime.seen[0]["mm-model-id"] == "m"

    plane.plane.remove_alias("v")
    answer = asyncio.create_task(call(client, "Unary", metadata=(("mm-vmodel-id-bin", b"v"),)))
    ask = await plane.asked()
    assert (ask.model_id, ask.is_vmodel, ask.reason) == ("v", True, "no_route")
    plane.plane.answer_route(ask.token, "m")
    assert await answer == b"hello"


async def test_an_id_inside_the_message_is_found_and_overrides_the_headers(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    plane.plane.set_rpcs({"test.Echo/Unary": ([1], False), "test.Echo/Grow": ([1], True)})
    request = inference_pb2.ModelInferRequest(
        model_name="m", raw_input_contents=[bytes(300_000)]
    ).SerializeToString()
    other = (("mm-model-id", "unknown"),)
    for metadata in ((), other):
        assert await call(client, "Unary", request, metadata=metadata) == request
    compressed = await call(client, "Unary", request, metadata=other, compression=grpc.Compression.Gzip)
    assert compressed == request
    # The id need not come first.
    late = inference_pb2.ModelInferRequest(raw_input_contents=[bytes(200_000)]).SerializeToString()
    late += inference_pb2.ModelInferRequest(model_name="m").SerializeToString()
    assert await call(client, "Unary", late, metadata=()) == late
    assert {seen["mm-model-id"] for seen in runtime.seen} == {"m"}


async def test_a_message_without_an_id_leaves_it_to_the_headers(
    client: grpc.aio.Channel, plane: Plane
) -> None:
    plane.plane.set_rpcs({"test.Echo/Unary": ([1], False)})
    request = inference_pb2.ModelInferRequest(id="1").SerializeToString()
    assert await call(client, "Unary", request) == request
    assert await call(client, "Unary", b"") == b""
    error = await failure(call(client, "Unary", request, metadata=()))
    assert error.details() == "must include mm-model-id header"


@pytest.mark.parametrize(
    ("request_bytes", "message"),
    [
        (b"\x0a\x00", "provided model-id header must be non-empty"),
        (
            b"\x08\x01",
            "the message has no readable model id: a field of the path is neither a string nor a message",
        ),
        (b"\x0a\x7fa", "the message has no readable model id: a field is longer than its message"),
        (b"\x0a\x01\xff", "the message has no readable model id: it is not UTF-8"),
    ],
)
async def test_a_message_with_a_bad_id(
    client: grpc.aio.Channel, plane: Plane, request_bytes: bytes, message: str
) -> None:
    plane.plane.set_rpcs({"test.Echo/Unary": ([1], False)})
    error = await failure(call(client, "Unary", request_bytes))
    assert (error.code(), error.details()) == (INVALID, message)


@pytest.mark.parametrize("name", ["", "alias", "m", "n" * 200])
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
async def test_the_runtime_finds_the_models_id_in_every_message(
    client: grpc.aio.Channel,
    plane: Plane,
    runtime: Runtime,
    name: str,
    compression: grpc.Compression | None,
) -> None:
    plane.plane.set_runtime_methods({"test.Echo/Talk": [1], "test.Echo/Unary": [1]})
    plane.plane.set_alias("v", [("m", 1)])
    request = inference_pb2.ModelInferRequest(model_name=name, id="7", raw_input_contents=[b"\x01" * 100_000])
    wanted = inference_pb2.ModelInferRequest()
    wanted.CopyFrom(request)
    wanted.model_name = "m"
    metadata = (("mm-vmodel-id", "v"),)
    raw = request.SerializeToString()
    await call(client, "Unary", raw, metadata=metadata, compression=compression)

    stream = talk(client, iter([raw] * 3), metadata, compression=compression)
    answers = [part async for part in stream]
    for message in (*runtime.messages, *answers):
        assert inference_pb2.ModelInferRequest.FromString(message) == wanted
    assert len(answers) == 3


async def test_an_id_deep_inside_is_written_where_there_is_none(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    plane.plane.set_runtime_methods({"test.Echo/Unary": [5, 1]})
    assert await call(client, "Unary", b"") == b"\x2a\x03\x0a\x01m"
