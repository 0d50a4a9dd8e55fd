"""The checker finds nothing wrong with our runtimes, and each thing that is wrong with a bad one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc

from mesh.protos import inference_pb2
from mesh.protos import model_runtime_pb2 as pb
from mesh.runtimes import ModelInfo, RuntimeEndpoints, SpiRuntime, SpiTimings
from mesh.runtimes.builtin.runtime import BuiltinRuntime
from mesh.runtimes.check import Finding, check
from tests.runtimes.scripted import Scripted, hang, ready
from tests.runtimes.serving import serving

MODEL = Path(__file__).parents[1] / "models" / "mushroom-xgboost" / "model.json"


async def findings(address: str, model: ModelInfo) -> dict[str, Finding]:
    runtime = SpiRuntime(RuntimeEndpoints((address,)), SpiTimings(start_limit_s=5))
    found = {finding.subject: finding async for finding in check(runtime, model)}
    await runtime.close()
    return found


async def test_nothing_is_wrong_with_the_built_in_runtime() -> None:
    async with serving(BuiltinRuntime()) as served:
        found = await findings(served.address, ModelInfo("m", path=str(MODEL)))
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert found["runtimeStatus"].text.startswith("unloads all models")


async def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    script = Scripted(
        {
            "runtimeStatus": ready(modelLoadingTimeoutMs=100),
            "loadModel": pb.LoadModelResponse(),
            "unloadModel": (grpc.StatusCode.INTERNAL, "who?"),
        }
    )
    address = f"unix:{tmp_path}/rt.sock"
    async with script.serve(address):
        found = await findings(address, ModelInfo("m"))
        assert {subject for subject, finding in found.items() if finding.verdict == "wrong"} == {
            "size",
            "impossible load",
            "unload after a failed load",
            "unload of no model",
            "unload after a load that was given up",
        }
        assert found["predictModelSize"].verdict == "note"
        script.answers["loadModel"] = hang
        assert (
            "took longer than modelLoadingTimeoutMs, 0.1 s"
            in (await findings(address, ModelInfo("m")))["loadModel"].text
        )


async def test_a_runtime_that_answers_for_models_that_it_does_not_have_is_found_out(tmp_path: Path) -> None:
    async def load(request: Any, context: Any) -> pb.LoadModelResponse:
        if request.modelPath.startswith("/nonexistent"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such path")
        return pb.LoadModelResponse(sizeInBytes=1)

    async def infer(request: Any, context: Any) -> Any:
        return inference_pb2.ModelInferResponse()

    script = Scripted({"runtimeStatus": ready(), "loadModel": load, "unloadModel": pb.UnloadModelResponse()})
    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=inference_pb2.ModelInferRequest.FromString,
        response_serializer=inference_pb2.ModelInferResponse.SerializeToString,
    )
    address = f"unix:{tmp_path}/rt.sock"
    server, _ = await script.start(address, also={"inference.GRPCInferenceService": {"ModelInfer": handler}})
    found = await findings(address, ModelInfo("m"))
    await server.stop(None)
    assert {subject for subject, finding in found.items() if finding.verdict == "wrong"} == {
        "request for no model",
        "request after unload",
        "runtimeStatus",
    }


def test_the_command_says_so_by_its_exit_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mesh.runtimes.check", "--model-path", str(MODEL), "--wait", "0.3"]
    result = subprocess.run(
        [*command, "--socket", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout.startswith("wrong start: DEADLINE_EXCEEDED: no model runtime was ready within 0.3 s")
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "give --socket or --port" in result.stderr
