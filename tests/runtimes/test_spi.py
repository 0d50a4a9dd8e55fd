import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.instance import Channels
from mesh.protos import model_runtime_pb2 as pb
from mesh.runtimes import (
    ModelInfo,
    RuntimeEndpoints,
    RuntimeFailure,
    RuntimeLost,
    RuntimeReturned,
    SpiRuntime,
    SpiTimings,
)
from tests.runtimes.scripted import Scripted, hang, ready

QUICK = SpiTimings(start_limit_s=5, first_poll_interval_s=0.01, poll_interval_s=0.02)
MODEL = ModelInfo("m1", "sklearn", "/models/m1", '{"a":1}')
STARTING = pb.RuntimeStatusResponse(status=pb.RuntimeStatusResponse.STARTING)
FAILING = pb.RuntimeStatusResponse(status=pb.RuntimeStatusResponse.FAILING)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/rt.sock"


@asynccontextmanager
async def started(
    address: str, timings: SpiTimings = QUICK, serving: str | None = None
) -> AsyncIterator[SpiRuntime]:
    # As an instance opens them.
    async with Channels() as channels:
        runtime = SpiRuntime(RuntimeEndpoints((address,), serving), timings, channels.open)
        try:
            await runtime.start()
            yield runtime
        finally:
            await runtime.close()


async def test_a_load_carries_every_field_and_the_answer_counts(address: str) -> None:
    script = Scripted({"runtimeStatus": ready(), "loadModel": pb.LoadModelResponse(sizeInBytes=123)})
    async with script.serve(address), started(address) as runtime:
        assert (await runtime.load(MODEL)).size_bytes == 123
        assert runtime.serving_address == address
    request = script.calls[-1][1]
    assert (request.modelId, request.modelType, request.modelPath, request.modelKey) == (
        "m1",
        "sklearn",
        "/models/m1",
        '{"a":1}',
    )


async def test_a_runtime_may_listen_on_a_port_and_serve_elsewhere() -> None:
    script = Scripted({"runtimeStatus": ready()})
    async with script.serve("127.0.0.1:0") as bound, started(bound, serving="localhost:9") as runtime:
        assert runtime.serving_address == "localhost:9"


async def test_start_waits_for_a_runtime_that_comes_late_and_starts_slowly(address: str) -> None:
    script = Scripted({"runtimeStatus": [STARTING, STARTING, (grpc.StatusCode.INTERNAL, "hiccup"), ready()]})
    runtime = SpiRuntime(RuntimeEndpoints((address,)), QUICK)
    start = asyncio.create_task(runtime.start())
    await asyncio.sleep(0.1)
    async with script.serve(address):
        assert (await start).capacity_bytes == 1 << 30
        assert len(script.calls) == 4
        await runtime.close()


async def test_of_two_places_the_one_that_is_ready_counts(tmp_path: Path) -> None:
    script, silent = Scripted({"runtimeStatus": ready()}), Scripted({"runtimeStatus": hang})
    first, second = f"unix:{tmp_path}/a.sock", f"unix:{tmp_path}/b.sock"
    async with silent.serve(first), script.serve(second):
        runtime = SpiRuntime(RuntimeEndpoints((first, second)), QUICK)
        await runtime.start()
        assert runtime.serving_address == second
        await runtime.close()


async def test_a_runtime_that_says_it_fails_ends_the_start(address: str) -> None:
    async with Scripted({"runtimeStatus": [STARTING, FAILING]}).serve(address):
        with pytest.raises(RuntimeFailure, match="says FAILING"):
            await SpiRuntime(RuntimeEndpoints((address,)), QUICK).start()


async def test_an_unknown_status_ends_the_start(address: str) -> None:
    async with Scripted({"runtimeStatus": pb.RuntimeStatusResponse(status=7)}).serve(address):  # type: ignore[arg-type]
        with pytest.raises(RuntimeFailure, match="status 7"):
            await SpiRuntime(RuntimeEndpoints((address,)), QUICK).start()


async def test_a_runtime_that_lies_about_its_capacity_ends_the_start(address: str) -> None:
    async with Scripted({"runtimeStatus": ready(capacityInBytes=0)}).serve(address):
        with pytest.raises(RuntimeFailure, match="capacityInBytes=0, which is below the minimum of 10485760"):
            await SpiRuntime(RuntimeEndpoints((address,)), QUICK).start()


async def test_a_runtime_that_never_answers_ends_the_start_in_time_and_says_where_it_looked(
    address: str,
) -> None:
    nobody = "unix:/nonexistent/rt.sock"
    async with Scripted({"runtimeStatus": hang}).serve(address):
        runtime = SpiRuntime(RuntimeEndpoints((address, nobody)), SpiTimings(start_limit_s=0.5))
        with pytest.raises(RuntimeFailure) as caught:
            await runtime.start()
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert f"{address} has not answered" in caught.value.message
    assert f"{nobody} UNAVAILABLE" in caught.value.message


async def test_the_old_service_name_is_tried_too(address: str) -> None:
    script = Scripted(
        {"runtimeStatus": ready(), "loadModel": pb.LoadModelResponse(sizeInBytes=9)},
        service="com.ibm.watson.tas.internal.proto.ModelServer",
    )
    async with script.serve(address), started(address) as runtime:
        assert (await runtime.load(MODEL)).size_bytes == 9


async def test_a_server_of_something_else_ends_the_start(address: str) -> None:
    async with Scripted({"runtimeStatus": ready()}, service="other.Service").serve(address):
        with pytest.raises(RuntimeFailure, match=r"serves neither mmesh\.ModelRuntime nor its predecessor"):
            await SpiRuntime(RuntimeEndpoints((address,)), QUICK).start()


async def test_a_refused_load_keeps_its_code_and_names_the_rpc(address: str) -> None:
    refusal = (grpc.StatusCode.INVALID_ARGUMENT, "no such format")
    async with (
        Scripted({"runtimeStatus": ready(), "loadModel": refusal}).serve(address),
        started(address) as runtime,
    ):
        with pytest.raises(RuntimeFailure) as caught:
            await runtime.load(MODEL)
    assert (caught.value.code, caught.value.message) == (refusal[0], "loadModel: no such format")


async def test_giving_up_a_load_cancels_it_in_the_runtime(address: str) -> None:
    script = Scripted({"runtimeStatus": ready(), "loadModel": hang})
    async with script.serve(address), started(address) as runtime:
        load = asyncio.create_task(runtime.load(MODEL))
        await asyncio.wait_for(script.arrived["loadModel"].wait(), 5)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await asyncio.wait_for(script.cancelled.wait(), 5)


async def test_a_runtime_that_hangs_in_an_unload_does_not_hang_the_mesh(address: str) -> None:
    script = Scripted({"runtimeStatus": ready(modelLoadingTimeoutMs=100), "unloadModel": hang})
    async with script.serve(address), started(address) as runtime:
        with pytest.raises(RuntimeFailure) as caught:
            await runtime.unload("m1")
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_unloading_an_unknown_model_is_no_failure(address: str) -> None:
    script = Scripted({"runtimeStatus": ready(), "unloadModel": (grpc.StatusCode.NOT_FOUND, "who?")})
    async with script.serve(address), started(address) as runtime:
        await runtime.unload("m1")
    assert script.names()[-1] == "unloadModel"


async def test_sizes_that_a_runtime_cannot_tell(address: str) -> None:
    async with (script := Scripted({"runtimeStatus": ready()})).serve(address), started(address) as runtime:
        assert await runtime.predict_size(MODEL) is None
        assert await runtime.model_size("m1") is None
    assert script.names() == ["runtimeStatus"]


async def test_prediction_is_asked_for_until_it_is_known_to_be_missing(address: str) -> None:
    script = Scripted(
        {
            "runtimeStatus": ready(),
            "predictModelSize": [
                pb.PredictModelSizeResponse(sizeInBytes=77),
                pb.PredictModelSizeResponse(sizeInBytes=(1 << 64) - 1),
                (grpc.StatusCode.INTERNAL, "hiccup"),
                hang,
                (grpc.StatusCode.UNIMPLEMENTED, "cannot"),
            ],
        }
    )
    async with script.serve(address), started(address, SpiTimings(predict_size_s=0.1)) as runtime:
        assert [await runtime.predict_size(MODEL) for _ in range(8)] == [77] + [None] * 7
    assert script.names().count("predictModelSize") == 5


async def test_the_size_of_a_loaded_model(address: str) -> None:
    script = Scripted({"runtimeStatus": ready(), "modelSize": pb.ModelSizeResponse(sizeInBytes=4096)})
    async with script.serve(address), started(address) as runtime:
        assert await runtime.model_size("m1") == 4096


RUNTIME_PROCESS = """
import asyncio, sys
from tests.runtimes.scripted import Scripted, hang, ready
async def main():
    script = Scripted({"runtimeStatus": ready(runtimeVersion=sys.argv[2]), "loadModel": hang})
    server, bound = await script.start(sys.argv[1])
    print(bound, flush=True)
    await server.wait_for_termination()
asyncio.run(main())
"""


class Process:
    """A runtime that can be killed."""

    def __init__(self, address: str, version: str) -> None:
        root = str(Path(__file__).parents[2])
        command = [sys.executable, "-c", RUNTIME_PROCESS, address, version]
        self.child = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout is not None
        self.bound = self.child.stdout.readline().strip()

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_runtime_that_dies_while_loading_fails_the_load(address: str) -> None:
    process = await asyncio.to_thread(Process, address, "1")
    async with started(address) as runtime:
        load = asyncio.create_task(runtime.load(MODEL))
        await asyncio.sleep(0.3)
        process.kill()
        with pytest.raises(RuntimeFailure) as caught:
            await asyncio.wait_for(load, 10)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("kind", ["unix", "port"])
async def test_a_runtime_that_restarts_is_noticed(address: str, kind: str) -> None:
    where = address if kind == "unix" else f"127.0.0.1:{free_port()}"
    process = await asyncio.to_thread(Process, where, "1")
    async with started(where) as runtime:
        events = runtime.watch()
        lost = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.3)
        assert not lost.done()
        process.kill()
        event = await asyncio.wait_for(lost, 10)
        assert isinstance(event, RuntimeLost)
        assert where in event.reason
        process = await asyncio.to_thread(Process, where, "2")
        back: Any = await asyncio.wait_for(anext(events), 10)
        assert isinstance(back, RuntimeReturned)
        assert back.parameters.version == "2"
        await events.aclose()  # type: ignore[attr-defined]
    process.kill()


# Stands for a server that closes old connections, as some do to balance load.
SHORT_CONNECTIONS = {"max_connection_age_ms": 200, "max_connection_age_grace_ms": 50}


async def test_a_connection_that_only_grew_old_is_no_loss(address: str) -> None:
    """Asking for the status would make the runtime unload everything."""
    script = Scripted({"runtimeStatus": ready()})
    async with script.serve(address, **SHORT_CONNECTIONS), started(address) as runtime:
        events = runtime.watch()
        lost = asyncio.ensure_future(anext(events))
        await asyncio.sleep(1)
        assert not lost.done()
        assert script.names() == ["runtimeStatus"]
        lost.cancel()


async def test_a_restart_within_an_instant_is_noticed_by_the_socket(tmp_path: Path) -> None:
    old, new = tmp_path / "rt.sock", tmp_path / "new.sock"
    again = Scripted({"runtimeStatus": ready(runtimeVersion="2")})
    first, address = await Scripted({"runtimeStatus": ready()}).start(f"unix:{old}", **SHORT_CONNECTIONS)
    async with again.serve(f"unix:{new}"), started(address) as runtime:
        events = runtime.watch()
        lost = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(new.rename, old)
        event = await asyncio.wait_for(lost, 10)
        assert isinstance(event, RuntimeLost)
        assert "started again" in event.reason
        assert isinstance(await asyncio.wait_for(anext(events), 10), RuntimeReturned)
        await events.aclose()  # type: ignore[attr-defined]
    await first.stop(None)


async def test_a_serving_endpoint_of_its_own_that_goes_away_is_noticed(tmp_path: Path) -> None:
    management, serving = f"unix:{tmp_path}/m.sock", f"unix:{tmp_path}/s.sock"
    async with (
        Scripted({"runtimeStatus": ready()}).serve(management),
        started(management, serving=serving) as runtime,
    ):
        served, _ = await Scripted().start(serving)
        events = runtime.watch()
        lost = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.5)
        await served.stop(None)
        event = await asyncio.wait_for(lost, 10)
        assert isinstance(event, RuntimeLost)
        assert serving in event.reason
        async with Scripted().serve(serving):
            assert isinstance(await asyncio.wait_for(anext(events), 10), RuntimeReturned)
            await events.aclose()  # type: ignore[attr-defined]
