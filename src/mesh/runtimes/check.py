"""``python -m mesh.runtimes.check`` looks whether a custom runtime keeps to what the mesh relies on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import grpc
from grpc import aio

from mesh.protos import inference_pb2 as pb
from mesh.protos.inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.runtimes.connection import open_channel
from mesh.runtimes.endpoints import RuntimeEndpoints
from mesh.runtimes.interface import ModelInfo, ModelRuntime, RuntimeFailure
from mesh.runtimes.rules import LOST_MODEL_RULES
from mesh.runtimes.spi import SpiRuntime, SpiTimings

Verdict = Literal["ok", "note", "wrong"]

_ANSWER_S = 10.0
_UNKNOWN = "mesh-check-unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        verdict: ``note`` for what is allowed and worth knowing.
        subject: what was looked at.
        text: what was seen, and the remedy where it is wrong.
    """

    verdict: Verdict
    subject: str
    text: str


async def check(runtime: ModelRuntime, model: ModelInfo) -> AsyncIterator[Finding]:
    """Starts a runtime and has it load, size, unload and refuse models; the last finding before a stop is wrong.

    Args:
        runtime: not started yet.
        model: one that it can load.
    """
    try:
        parameters = await runtime.start()
    except RuntimeFailure as failure:
        yield Finding("wrong", "start", str(failure))
        return
    yield Finding("ok", "start", f"{parameters}")
    limit = parameters.loading_timeout_ms / 1000

    predicted = await runtime.predict_size(model)
    yield Finding("ok", "predictModelSize", f"{predicted} bytes") if predicted else _no_prediction()
    try:
        async with asyncio.timeout(limit):
            loaded = await runtime.load(model)
    except (RuntimeFailure, TimeoutError) as failure:
        yield Finding(
            "wrong", "loadModel", f"{failure}" or f"took longer than modelLoadingTimeoutMs, {limit:g} s"
        )
        return
    size = loaded.size_bytes or await runtime.model_size(model.model_id)
    if size:
        yield Finding("ok", "size", f"{size} bytes")
    else:
        yield Finding(
            "wrong", "size", "loadModel told 0 and modelSize nothing: one of them must tell the bytes"
        )

    async for finding in _check_refusals(runtime, model, limit):
        yield finding
    async for finding in _check_lost_models(runtime, model):
        yield finding


async def _check_refusals(runtime: ModelRuntime, model: ModelInfo, limit: float) -> AsyncIterator[Finding]:
    impossible = ModelInfo(f"{model.model_id}-impossible", model.model_type, "/nonexistent/mesh-check")
    try:
        async with asyncio.timeout(limit):
            await runtime.load(impossible)
        yield Finding(
            "wrong", "impossible load", f"loadModel of the path {impossible.path} must fail, and did not"
        )
    except TimeoutError:
        yield Finding(
            "wrong", "impossible load", f"loadModel of a path that is not there hangs for over {limit:g} s"
        )
    except RuntimeFailure as failure:
        yield Finding("ok", "impossible load", f"{failure}")
    for subject, model_id in (
        ("unload after a failed load", impossible.model_id),
        ("unload of no model", _UNKNOWN),
    ):
        try:
            await runtime.unload(model_id)
            yield Finding("ok", subject, "done")
        except RuntimeFailure as failure:
            yield Finding(
                "wrong", subject, f"{failure}; unloadModel of what is not loaded must be OK or NOT_FOUND"
            )
    again = ModelInfo(f"{model.model_id}-given-up", model.model_type, model.path, model.key)
    load = asyncio.create_task(runtime.load(again))
    await asyncio.sleep(0)
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)
    try:
        await runtime.unload(again.model_id)
        yield Finding("ok", "unload after a load that was given up", "done")
    except RuntimeFailure as failure:
        yield Finding("wrong", "unload after a load that was given up", str(failure))


async def _check_lost_models(runtime: ModelRuntime, model: ModelInfo) -> AsyncIterator[Finding]:
    remedy = "it must be NOT_FOUND, or the mesh goes on sending requests for a model that was lost"
    async with open_channel(runtime.serving_address) as channel:
        code, text = await _ask(channel, _UNKNOWN)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            yield Finding(
                "note", "request for no model", f"not looked at: no ModelInfer at {runtime.serving_address}"
            )
            return
        verdict: Verdict = "ok" if _lost(code, text) else "wrong"
        yield Finding(
            verdict,
            "request for no model",
            f"{code.name}: {text}" + ("" if verdict == "ok" else f"; {remedy}"),
        )
        await runtime.unload(model.model_id)
        code, text = await _ask(channel, model.model_id)
        verdict = "ok" if _lost(code, text) else "wrong"
        yield Finding(
            verdict,
            "request after unload",
            f"{code.name}: {text}" + ("" if verdict == "ok" else f"; {remedy}"),
        )
        await runtime.load(model)
        await runtime.start()
        code, text = await _ask(channel, model.model_id)
        if _lost(code, text):
            yield Finding("ok", "runtimeStatus", "unloads all models before it answers READY")
        else:
            yield Finding(
                "wrong", "runtimeStatus", "a model is still there: unload all before answering READY"
            )


async def _ask(channel: aio.Channel, model_id: str) -> tuple[grpc.StatusCode, str]:
    metadata = (("mm-model-id", model_id), ("mm-model-id-bin", model_id.encode()))
    try:
        request = pb.ModelInferRequest(model_name=model_id)
        await GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=metadata, timeout=_ANSWER_S)
    except aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, "an answer"


def _lost(code: grpc.StatusCode, text: str) -> bool:
    return any(
        code is rule and text.startswith(prefix) and text.endswith(suffix)
        for rule, prefix, suffix in LOST_MODEL_RULES
    )


def _no_prediction() -> Finding:
    return Finding(
        "note", "predictModelSize", "tells nothing: the mesh assumes the default size until a model is loaded"
    )


@click.command()
@click.option("--socket", "socket_path", help="Unix socket that the runtime listens on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port that it listens on.")
@click.option("--model-path", required=True, help="Data of a model that it can load, as it understands it.")
@click.option("--model-type", default="", help="Type of that model.")
@click.option("--model-key", default="", help="Key of that model, usually a JSON object.")
@click.option(
    "--wait", type=float, default=180.0, show_default=True, help="Seconds in which it must be ready."
)
def main(
    socket_path: str | None, port: int | None, model_path: str, model_type: str, model_key: str, wait: float
) -> None:
    """Checks whether a custom runtime keeps to what the mesh relies on. All its models are unloaded."""
    if (socket_path is None) == (port is None):
        raise click.UsageError("give --socket or --port, where the runtime listens")
    address = f"localhost:{port}" if socket_path is None else f"unix:{Path(socket_path).absolute()}"
    model = ModelInfo("mesh-check", model_type, model_path, model_key)

    async def run() -> bool:
        runtime = SpiRuntime(RuntimeEndpoints((address,)), SpiTimings(start_limit_s=wait))
        right = True
        async for finding in check(runtime, model):
            click.echo(f"{finding.verdict:6}{finding.subject}: {finding.text}")
            right = right and finding.verdict != "wrong"
        await runtime.close()
        return right

    raise SystemExit(0 if asyncio.run(run()) else 1)


if __name__ == "__main__":
    main()
