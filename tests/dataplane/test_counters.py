"""Histograms and totals."""

import asyncio

import grpc
import grpc.aio
import pytest

from mesh.dataplane import SIZE_BOUNDS_BYTES, TIME_BOUNDS_MS, HistogramSample
from tests.dataplane.harness import MODEL, Plane, begin, call, channel, failure, planes, until
from tests.dataplane.runtime import Runtime


def by_name(plane: Plane) -> dict[tuple[str, str, str], HistogramSample]:
    """Samples by name, method without its package, and code."""
    return {
        (sample.name, sample.method.rpartition("/")[2], sample.code): sample
        for sample in plane.plane.take_histograms(full_method_names=True)
    }


def test_the_buckets() -> None:
    assert (TIME_BOUNDS_MS[0], TIME_BOUNDS_MS[-1], len(TIME_BOUNDS_MS)) == (0.5, 300_000, 19)
    assert [128 * 4**power for power in range(8)] == SIZE_BOUNDS_BYTES


async def test_times_and_sizes_by_method_and_code(client: grpc.aio.Channel, plane: Plane) -> None:
    for _ in range(3):
        await call(client, "Grow", b"200")
    await failure(call(client, "Fail", bytes(600), metadata=(*MODEL, ("code", "9"))))
    await failure(call(client, "Unary", metadata=()))
    samples = by_name(plane)
    assert set(samples) == {
        (name, method, code)
        for method, code in (("Grow", "OK"), ("Fail", "FAILED_PRECONDITION"))
        for name in ("api_request_milliseconds", "invoke_model_milliseconds", "request_size_bytes")
    } | {("response_size_bytes", "Grow", "OK")}
    requests = samples["request_size_bytes", "Grow", "OK"]
    assert (requests.sum, requests.buckets) == (9, [3, *[0] * 8])
    answers = samples["response_size_bytes", "Grow", "OK"]
    assert (answers.sum, answers.buckets) == (600, [0, 3, *[0] * 7])
    failed = samples["request_size_bytes", "Fail", "FAILED_PRECONDITION"]
    assert (failed.sum, failed.buckets) == (600, [0, 0, 1, *[0] * 6])
    times = samples["api_request_milliseconds", "Grow", "OK"]
    assert sum(times.buckets) == 3
    assert len(times.buckets) == len(TIME_BOUNDS_MS) + 1
    assert times.sum >= samples["invoke_model_milliseconds", "Grow", "OK"].sum > 0
    assert times.method == "test.Echo/Grow"
    assert (times.model_id, times.vmodel_id) == ("", "")


async def test_the_code_of_a_call_that_the_client_gave_up(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    waiting = begin(client, "Wait")
    await until(lambda: runtime.running == 1)
    waiting.cancel()
    await until(lambda: runtime.running == 0)
    late = asyncio.create_task(failure(call(client, "Wait", timeout=1)))
    await until(lambda: runtime.running == 1)
    await late
    await until(
        lambda: {code for _, _, code in by_name(plane)} == {"CANCELLED", "DEADLINE_EXCEEDED"},
    )


@pytest.mark.parametrize("most", [100, 3])
async def test_series_of_models_are_bounded(runtime: Runtime, most: int) -> None:
    async with (
        planes(per_model_metrics=True, max_model_series=most) as (made,),
        channel(made.clients) as client,
    ):
        endpoint = made.runtime(runtime.address)
        ids = [f"m{number}" for number in range(8)]
        for model in ids:
            made.plane.set_route(model, [endpoint])
            await call(client, "Unary", metadata=(("mm-model-id", model),))
        samples = [s for s in made.plane.take_histograms() if s.name == "api_request_milliseconds"]
        counts = {sample.model_id: sum(sample.buckets) for sample in samples}
        assert sum(counts.values()) == 8
        assert set(counts) == ({*ids} if most == 100 else {"", *ids[:3]})


async def test_totals(client: grpc.aio.Channel, plane: Plane, runtime: Runtime) -> None:
    calls = [asyncio.create_task(call(client, "Wait", bytes(1000))) for _ in range(4)]
    await until(lambda: runtime.running == 4)
    totals = plane.plane.totals()
    assert (totals.connections, totals.streams, totals.requests, totals.routes) == (1, 4, 4, 1)
    # Kept until there is an answer, so that they could be sent again.
    assert totals.retained_bytes == 4 * 1005
    runtime.release.set()
    await asyncio.gather(*calls)
    assert plane.plane.totals().retained_bytes == 0
