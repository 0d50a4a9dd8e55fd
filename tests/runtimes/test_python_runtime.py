import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio

from mesh.protos import inference_pb2 as pb
from mesh.runtimes import ModelInfo, RuntimeFailure
from mesh.runtimes.python import (
    Capacity,
    InferRequest,
    InvalidInput,
    ModelMetadata,
    PythonRuntime,
    RuntimeServer,
    ServerOptions,
    TensorSpec,
)
from mesh.tensors import Array
from tests.runtimes.serving import request, serving

MIB = 1 << 20


class Scale(PythonRuntime[float]):
    """Multiplies; what a model does beside is said by its path."""

    name = "scale"
    version = "3"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.unloaded: list[float] = []
        self.loads = 0
        self.asked: list[InferRequest] = []

    def load(self, model: ModelInfo) -> float:
        self.loads += 1
        if model.path == "slow":
            self.entered.release()
            assert self.gate.wait(10)
        if model.path == "broken":
            raise OSError("disk on fire")
        if model.path == "refused":
            raise RuntimeFailure(grpc.StatusCode.FAILED_PRECONDITION, "no licence")
        return float(model.key or 2)

    def size(self, model: float) -> int:
        return 5000

    def metadata(self, model: float) -> ModelMetadata:
        return ModelMetadata("scale", [TensorSpec("x", "FP32", (-1,))], [TensorSpec("y", "FP32", (-1,))])

    def infer(self, model: float, inputs: dict[str, Array], request: InferRequest) -> Mapping[str, Array]:
        self.asked.append(request)
        match request.parameters.get("do"):
            case "wait":
                self.entered.release()
                assert self.gate.wait(10)
            case "fail":
                raise KeyError("weights")
            case "reject":
                raise InvalidInput("too large")
            case "exit":
                raise SystemExit(1)
        return {"y": inputs["x"] * np.float32(model), "n": np.array(len(inputs["x"]))}

    def unload(self, model: float) -> None:
        self.unloaded.append(model)

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


def asking(name: str, do: str) -> pb.ModelInferRequest:
    asked = request(name, [1, 2])
    asked.parameters["do"].string_param = do
    return asked


async def failure(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_model_is_loaded_asked_and_unloaded() -> None:
    runtime = Scale()
    async with serving(runtime) as served:
        loaded = await served.spi.load(ModelInfo("m", key="3"))
        assert loaded.size_bytes == 5000
        answer = await served.client.ModelInfer(request("m", [1, 2]))
        assert (answer.model_name, answer.outputs[0].name, answer.outputs[0].datatype) == ("m", "y", "FP32")
        assert list(answer.outputs[0].contents.fp32_contents) == [3, 6]
        assert list(answer.outputs[1].contents.int64_contents) == [2]
        assert await served.spi.model_size("m") == 5000
        await served.spi.unload("m")
        assert runtime.unloaded == [3]
        assert (
            await failure(served.client.ModelInfer(request("m", [1])))
        ).code() is grpc.StatusCode.NOT_FOUND


async def test_a_raw_request_gets_a_raw_answer() -> None:
    async with serving(Scale()) as served:
        await served.spi.load(ModelInfo("m"))
        asked = request("m", [])
        asked.inputs[0].ClearField("contents")
        asked.inputs[0].shape[:] = [2]
        asked.raw_input_contents.append(np.array([1, 2], "<f4").tobytes())
        answer = await served.client.ModelInfer(asked)
        assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [2, 4]
        assert not answer.outputs[0].HasField("contents")


@pytest.mark.parametrize(
    "metadata",
    [
        (("mm-model-id", "m"),),
        (("mm-model-id-bin", b"m"),),
        (("mm-model-id", "wrong"), ("mm-model-id-bin", b"m")),
    ],
)
async def test_the_id_that_the_mesh_says_counts(metadata: tuple[tuple[str, str | bytes], ...]) -> None:
    async with serving(Scale()) as served:
        await served.spi.load(ModelInfo("m"))
        answer = await served.client.ModelInfer(request("another", [1]), metadata=metadata)
        assert answer.model_name == "m"


async def test_ids_of_any_text() -> None:
    async with serving(Scale()) as served:
        await served.spi.load(ModelInfo("größe/1 ☃"))
        metadata = (("mm-model-id-bin", "größe/1 ☃".encode()),)
        assert (await served.client.ModelInfer(request("", [1]), metadata=metadata)).model_name == "größe/1 ☃"


async def test_only_the_outputs_that_are_asked_for_are_sent() -> None:
    runtime = Scale()
    async with serving(runtime) as served:
        await served.spi.load(ModelInfo("m"))
        asked = request("m", [1])
        asked.outputs.add(name="n")
        assert [output.name for output in (await served.client.ModelInfer(asked)).outputs] == ["n"]
        assert runtime.asked[0].outputs == ["n"]
        asked.outputs.add(name="z")
        error = await failure(served.client.ModelInfer(asked))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == "output 'z' is unknown; the model gives 'y', 'n'"


async def test_inputs_are_checked_before_the_model_sees_them() -> None:
    runtime = Scale()
    async with serving(runtime) as served:
        await served.spi.load(ModelInfo("m"))
        error = await failure(served.client.ModelInfer(request("m", [1, 2], [1, 2])))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "input 'x' has shape [1, 2], expected [-1]" in (error.details() or "")
        assert not runtime.asked


@pytest.mark.parametrize(
    ("do", "code", "text"),
    [
        ("fail", grpc.StatusCode.INTERNAL, "KeyError: 'weights'"),
        ("reject", grpc.StatusCode.INVALID_ARGUMENT, "too large"),
        ("exit", grpc.StatusCode.INTERNAL, "SystemExit: 1"),
    ],
)
async def test_a_failing_model_fails_one_request(do: str, code: grpc.StatusCode, text: str) -> None:
    async with serving(Scale()) as served:
        await served.spi.load(ModelInfo("m"))
        error = await failure(served.client.ModelInfer(asking("m", do)))
        assert error.code() is code
        assert text in (error.details() or "")
        assert (await served.client.ModelInfer(request("m", [1]))).outputs


async def test_a_slow_model_does_not_stall_another() -> None:
    runtime = Scale()
    async with serving(runtime, threads=2, threads_per_model=1) as served:
        await served.spi.load(ModelInfo("slow"))
        await served.spi.load(ModelInfo("quick"))
        waiting = [asyncio.ensure_future(served.client.ModelInfer(asking("slow", "wait"))) for _ in range(4)]
        await runtime.wait_entered()
        for _ in range(5):
            await asyncio.wait_for(served.client.ModelInfer(request("quick", [1])), 10)
        runtime.gate.set()
        await asyncio.gather(*waiting)


async def test_an_unload_waits_for_requests_and_refuses_new_ones() -> None:
    runtime = Scale()
    async with serving(runtime) as served:
        await served.spi.load(ModelInfo("m"))
        waiting = asyncio.ensure_future(served.client.ModelInfer(asking("m", "wait")))
        await runtime.wait_entered()
        unload = asyncio.create_task(served.spi.unload("m"))
        while (await served.client.RepositoryIndex(pb.RepositoryIndexRequest())).models:
            await asyncio.sleep(0)
        assert (
            await failure(served.client.ModelInfer(request("m", [1])))
        ).code() is grpc.StatusCode.NOT_FOUND
        assert not unload.done()
        assert runtime.unloaded == []
        runtime.gate.set()
        await unload
        assert runtime.unloaded == [2]
        assert (await waiting).outputs


@pytest.mark.parametrize(
    ("path", "code", "text"),
    [
        ("broken", grpc.StatusCode.INTERNAL, "OSError: disk on fire"),
        ("refused", grpc.StatusCode.FAILED_PRECONDITION, "no licence"),
    ],
)
async def test_a_load_that_fails_says_why(path: str, code: grpc.StatusCode, text: str) -> None:
    async with serving(Scale()) as served:
        with pytest.raises(RuntimeFailure, match=text) as caught:
            await served.spi.load(ModelInfo("m", path=path))
        assert caught.value.code is code


async def test_a_load_that_is_given_up_leaves_nothing_behind() -> None:
    runtime = Scale()
    async with serving(runtime) as served:
        load = asyncio.create_task(served.spi.load(ModelInfo("m", path="slow", key="7")))
        await runtime.wait_entered()
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        unload = asyncio.create_task(served.spi.unload("m"))
        done, _ = await asyncio.wait([unload], timeout=0.1)
        assert not done
        runtime.gate.set()
        await unload
        assert runtime.unloaded == [7]
        assert not (await served.client.ModelReady(pb.ModelReadyRequest(name="m"))).ready


async def test_a_slow_load_does_not_stall_requests() -> None:
    runtime = Scale()
    async with serving(runtime) as served:
        await served.spi.load(ModelInfo("m"))
        load = asyncio.create_task(served.spi.load(ModelInfo("late", path="slow")))
        await runtime.wait_entered()
        assert (await served.client.ModelInfer(request("m", [1]))).outputs
        runtime.gate.set()
        await load


async def test_a_second_load_changes_nothing_unless_it_differs() -> None:
    runtime = Scale()
    async with serving(runtime) as served:
        for key in ("2", "2", "5"):
            await served.spi.load(ModelInfo("m", key=key))
        assert (runtime.loads, runtime.unloaded) == (2, [2])
        answer = await served.client.ModelInfer(request("m", [1]))
        assert list(answer.outputs[0].contents.fp32_contents) == [5]


async def test_a_load_of_files_that_have_changed_brings_the_new_ones(tmp_path: Path) -> None:
    runtime = Scale()
    (tmp_path / "model").write_text("old")
    async with serving(runtime) as served:
        await served.spi.load(ModelInfo("m", path=str(tmp_path)))
        await served.spi.load(ModelInfo("m", path=str(tmp_path)))
        assert runtime.loads == 1
        (tmp_path / "model").write_text("newer")
        await served.spi.load(ModelInfo("m", path=str(tmp_path)))
        assert runtime.loads == 2


async def test_a_client_may_ping_an_idle_connection() -> None:
    """As the data plane does; servers usually take more than two in five minutes for abuse."""

    def frame(kind: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3) + bytes([kind, 0]) + bytes(4) + payload

    async with serving(Scale()) as served:
        host, _, port = served.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, b""))
        answered = 0
        for number in range(20):
            writer.write(frame(6, number.to_bytes(8)))
            while answered <= number:
                header = await asyncio.wait_for(reader.readexactly(9), 10)
                payload = await reader.readexactly(int.from_bytes(header[:3]))
                assert header[3] != 7, f"GOAWAY {payload!r}"
                answered += header[3] == 6 and header[4] == 1
        writer.close()


async def test_asking_for_the_status_unloads_everything_as_the_spi_wants() -> None:
    runtime = Scale()
    async with serving(runtime) as served:
        await served.spi.load(ModelInfo("a"))
        await served.spi.load(ModelInfo("b"))
        parameters = await served.spi.start()
        assert parameters.version == "3"
        assert sorted(runtime.unloaded) == [2, 2]
        assert not (await served.client.RepositoryIndex(pb.RepositoryIndexRequest())).models


async def test_the_server_and_its_models_describe_themselves() -> None:
    async with serving(Scale()) as served:
        await served.spi.load(ModelInfo("m"))
        assert (await served.client.ServerLive(pb.ServerLiveRequest())).live
        assert (await served.client.ServerReady(pb.ServerReadyRequest())).ready
        about = await served.client.ServerMetadata(pb.ServerMetadataRequest())
        assert (about.name, about.version) == ("scale", "3")
        assert (await served.client.ModelReady(pb.ModelReadyRequest(name="m"))).ready
        model = await served.client.ModelMetadata(pb.ModelMetadataRequest(name="m"))
        assert (model.platform, model.inputs[0].name, list(model.inputs[0].shape)) == ("scale", "x", [-1])
        unknown = await failure(served.client.ModelMetadata(pb.ModelMetadataRequest(name="z")))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND


async def test_readiness_of_an_unknown_model_is_a_no_to_clients_and_an_error_to_the_mesh() -> None:
    async with serving(Scale()) as served:
        assert not (await served.client.ModelReady(pb.ModelReadyRequest(name="z"))).ready
        metadata = (("mm-model-id", "z"),)
        error = await failure(served.client.ModelReady(pb.ModelReadyRequest(name="z"), metadata=metadata))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stream_answers_in_order_and_outlives_a_bad_request() -> None:
    async with serving(Scale()) as served:
        await served.spi.load(ModelInfo("m"))
        asked = [request("m", [1]), request("m", [1], [1, 1]), request("m", [3])]
        for number, one in enumerate(asked):
            one.id = str(number)
        answers = [answer async for answer in served.client.ModelStreamInfer(iter(asked))]
        assert [answer.infer_response.id for answer in answers] == ["0", "1", "2"]
        assert "expected [-1]" in answers[1].error_message
        assert list(answers[2].infer_response.outputs[0].contents.fp32_contents) == [6]


async def test_a_stream_to_an_unknown_model_ends_as_not_found() -> None:
    async with serving(Scale()) as served:
        with pytest.raises(aio.AioRpcError) as caught:
            async for _ in served.client.ModelStreamInfer(iter([request("z", [1])])):
                pass
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_concurrency_is_told_where_it_is_limited() -> None:
    async with serving(Scale(), capacity=Capacity(64 * MIB, max_concurrency=3)) as served:
        assert (await served.spi.load(ModelInfo("m"))).max_concurrency == 3


class Measured(PythonRuntime[Array]):
    """Loads an array of as many MiB as the path says."""

    def load(self, model: ModelInfo) -> Array:
        return np.ones(int(model.path) * MIB, np.uint8)

    def infer(self, model: Array, inputs: dict[str, Array], request: InferRequest) -> Mapping[str, Array]:
        return {"sum": model.sum()}


async def test_without_a_size_the_size_is_measured() -> None:
    async with serving(Measured()) as served:
        for mib in (1, 30, 4):
            loaded = await served.spi.load(ModelInfo(f"m{mib}", path=str(mib)))
            assert loaded.size_bytes == pytest.approx(mib * MIB, rel=0.05, abs=64 << 10)


async def test_loads_at_once_are_measured_one_after_another() -> None:
    async with serving(Measured()) as served:
        loads = [served.spi.load(ModelInfo(f"m{number}", path="3")) for number in range(6)]
        for loaded in await asyncio.gather(*loads):
            assert loaded.size_bytes == pytest.approx(3 * MIB, rel=0.05)


async def test_an_address_that_is_taken_is_refused(tmp_path: Path) -> None:
    for address in ("127.0.0.1:0", f"unix:{tmp_path}/rt.sock"):
        async with serving(Scale(), address) as served:
            with pytest.raises(OSError, match="cannot listen on"):
                await RuntimeServer(Scale(), ServerOptions(served.address, Capacity(64 * MIB))).start()
            assert (await served.client.ServerLive(pb.ServerLiveRequest())).live
    assert not list(tmp_path.iterdir())


async def test_the_socket_of_a_server_that_was_killed_is_replaced(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "rt.sock"))
    async with serving(Scale(), f"unix:{tmp_path}/rt.sock") as served:
        assert (await served.client.ServerLive(pb.ServerLiveRequest())).live
