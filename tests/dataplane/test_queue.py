"""A local copy that takes only so many requests at once."""

import asyncio

import grpc
import grpc.aio
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.dataplane import DataPlane, Usage
from tests.dataplane.harness import MODEL, Plane, call, failure, until
from tests.dataplane.runtime import Runtime


async def test_only_so_many_run_and_so_many_wait(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    (endpoint,) = plane.plane.route("m")
    plane.plane.set_route("m", [endpoint], max_concurrency=2, max_queued=3)
    calls = [asyncio.create_task(call(client, "Wait")) for _ in range(5)]
    await until(lambda: (runtime.running, plane.plane.totals().queued) == (2, 3))
    error = await failure(call(client, "Wait"))
    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Model queue overload")
    assert plane.plane.local_in_flight("m") == 5
    assert plane.plane.close_local("m") == 5
    runtime.release.set()
    await asyncio.gather(*calls)
    assert runtime.most_running == 2
    delays = [s for s in plane.plane.take_histograms() if s.name == "req_queue_delay_milliseconds"]
    assert sum(delays[0].buckets) == 5
    assert plane.plane.close_local("m") == 0
    assert plane.plane.route("m") == []


async def test_first_come_first_served(client: grpc.aio.Channel, plane: Plane, runtime: Runtime) -> None:
    (endpoint,) = plane.plane.route("m")
    plane.plane.set_route("m", [endpoint], max_concurrency=1, max_queued=-1)
    calls = []
    for number in range(30):
        calls.append(asyncio.create_task(call(client, "Wait", b"%d" % number)))
        await until(lambda number=number: plane.plane.local_in_flight("m") == number + 1)  # type: ignore[misc]
    # Some give up, which must not change the order of the rest.
    for number in (5, 6, 29):
        calls[number].cancel()
    await until(lambda: plane.plane.local_in_flight("m") == 27)
    runtime.release.set()
    await asyncio.gather(*calls, return_exceptions=True)
    rest = [number for number in range(30) if number not in {5, 6, 29}]
    assert [int(message) for message in runtime.messages] == rest
    assert runtime.most_running == 1


async def test_a_deadline_passes_in_the_queue(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    (endpoint,) = plane.plane.route("m")
    plane.plane.set_route("m", [endpoint], max_concurrency=1, max_queued=-1)
    first = asyncio.create_task(call(client, "Wait"))
    await until(lambda: runtime.running == 1)
    late = asyncio.create_task(failure(call(client, "Wait", timeout=1)))
    await until(lambda: plane.plane.totals().queued == 1)
    assert (await late).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: plane.plane.local_in_flight("m") == 1)
    runtime.release.set()
    await first


async def test_those_who_wait_are_sent_elsewhere_when_the_copy_goes(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    (endpoint,) = plane.plane.route("m")
    plane.plane.set_route("m", [endpoint], max_concurrency=1, max_queued=-1)
    first = asyncio.create_task(call(client, "Wait"))
    await until(lambda: runtime.running == 1)
    second = asyncio.create_task(call(client, "Wait"))
    await until(lambda: plane.plane.totals().queued == 1)
    plane.plane.remove_route("m")
    ask = await plane.asked()
    assert (ask.reason, ask.attempt) == ("no_route", 0)
    plane.plane.answer_status(ask.token, 5, "gone")
    assert (await failure(second)).details() == "gone"
    # The stream that is open keeps its copy in use until it ends.
    assert plane.plane.local_in_flight("m") == 1
    runtime.release.set()
    await first
    assert plane.plane.local_in_flight("m") == 0


async def test_a_higher_limit_and_none_let_the_waiting_go(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    (endpoint,) = plane.plane.route("m")
    plane.plane.set_route("m", [endpoint], max_concurrency=1, max_queued=-1)
    calls = [asyncio.create_task(call(client, "Wait")) for _ in range(6)]
    await until(lambda: (runtime.running, plane.plane.totals().queued) == (1, 5))
    plane.plane.set_route("m", [endpoint], max_concurrency=3, max_queued=-1)
    await until(lambda: (runtime.running, plane.plane.totals().queued) == (3, 3))
    plane.plane.set_route("m", [endpoint])
    await until(lambda: (runtime.running, plane.plane.totals().queued) == (6, 0))
    runtime.release.set()
    await asyncio.gather(*calls)


async def test_requests_in_flight_survive_a_change_of_the_route(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    (endpoint,) = plane.plane.route("m")
    first = asyncio.create_task(call(client, "Wait"))
    await until(lambda: runtime.running == 1)
    plane.plane.remove_route("m")
    assert plane.plane.local_in_flight("m") == 1
    plane.plane.set_route("m", [endpoint])
    assert plane.plane.close_local("m") == 1
    assert plane.plane.route("m") == [endpoint]
    runtime.release.set()
    await first
    assert plane.plane.close_local("m") == 0
    assert plane.plane.totals().routes == 0


async def test_close_local_leaves_other_copies(plane: Plane) -> None:
    (endpoint,) = plane.plane.route("m")
    peer = plane.peer(plane)
    plane.plane.set_route("m", [endpoint, peer])
    assert plane.plane.close_local("m") == 0
    assert plane.plane.route("m") == [peer]
    assert plane.plane.totals().routes == 1


ROUTES = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 3), max_size=3, unique=True)), max_size=20
)


@settings(max_examples=50, deadline=None)
@given(ROUTES)
def test_the_table_says_what_was_set_last(routes: list[tuple[str, list[int]]]) -> None:
    plane = DataPlane()
    endpoints = [plane.add_endpoint(f"127.0.0.1:{port}", "peer", "p") for port in range(1, 5)]
    expected: dict[str, set[int]] = {}
    for model, chosen in routes:
        plane.set_route(model, [endpoints[index] for index in chosen])
        expected[model] = {endpoints[index] for index in chosen}
    for model in "abc":
        assert set(plane.route(model)) == expected.get(model, set())
    assert plane.totals().routes == sum(bool(chosen) for chosen in expected.values())
    plane.close(0)


def test_a_hundred_thousand_routes() -> None:
    plane = DataPlane()
    endpoint = plane.add_endpoint("127.0.0.1:1", "peer", "p")
    plane.set_routes([(f"model-{number:06}", [endpoint]) for number in range(100_000)])
    assert plane.totals().routes == 100_000
    assert plane.route("model-099999") == [endpoint]
    for number in range(0, 100_000, 2):
        plane.remove_route(f"model-{number:06}")
    assert plane.totals().routes == 50_000
    assert plane.route("model-000000") == []
    plane.remove_endpoint(endpoint)
    assert plane.route("model-000001") == []
    plane.close(0)


async def test_counts_of_many_models_at_once(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    (endpoint,) = plane.plane.route("m")
    ids = [f"model-{number}" for number in range(50)]
    plane.plane.set_routes([(model, [endpoint]) for model in ids])
    await until(lambda: plane.plane.take_usage() == [])
    await asyncio.gather(
        *(call(client, "Unary", metadata=(("mm-model-id", model),)) for model in ids for _ in range(3)),
        call(client, "Unary", metadata=MODEL),
    )
    usages = {usage.model_id: usage for usage in plane.plane.take_usage()}
    assert {model: usage.requests for model, usage in usages.items()} == {"m": 1} | dict.fromkeys(ids, 3)
    assert all(usage.last_used_ms > 1_600_000_000_000 for usage in usages.values())
    await until(lambda: plane.plane.take_usage() == [])


async def test_that_a_request_has_ended_is_told_once(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    waiting = asyncio.create_task(call(client, "Wait"))
    await until(lambda: runtime.running == 1)
    (begun,) = plane.plane.take_usage()
    assert (begun.requests, begun.in_flight) == (1, 1)
    (still,) = plane.plane.take_usage()
    assert (still.requests, still.in_flight) == (0, 1)
    runtime.release.set()
    await waiting
    told: list[Usage] = []

    def ended() -> bool:
        told.extend(plane.plane.take_usage())
        return bool(told) and told[-1].in_flight == 0

    await until(ended)
    assert told[-1].requests == 0
    assert told[-1].last_used_ms == begun.last_used_ms
    assert plane.plane.take_usage() == []


async def test_what_a_batch_tells_of_a_copy_under_load(
    client: grpc.aio.Channel, plane: Plane, runtime: Runtime
) -> None:
    (endpoint,) = plane.plane.route("m")
    plane.plane.set_route("m", [endpoint], max_concurrency=2, max_queued=-1)
    calls = [asyncio.create_task(call(client, "Wait")) for _ in range(7)]
    await until(lambda: (runtime.running, plane.plane.totals().queued) == (2, 5))
    for task in calls[4:]:
        task.cancel()
    await until(lambda: plane.plane.totals().queued == 2)
    (busy,) = plane.plane.take_usage()
    assert (busy.requests, busy.in_flight, busy.queued) == (7, 4, 2)
    assert (busy.most_in_flight, busy.most_queued) == (7, 5)
    assert (busy.answers, busy.service_ms) == (0, 0.0)
    # The peaks of the next batch begin with what there is now.
    (still,) = plane.plane.take_usage()
    assert (still.most_in_flight, still.most_queued, still.queued) == (4, 2, 2)
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(0.05)
    runtime.release.set()
    await asyncio.gather(*calls, return_exceptions=True)
    await failure(call(client, "Fail", metadata=(*MODEL, ("code", "9"))))
    elapsed_ms = (asyncio.get_running_loop().time() - began) * 1_000
    told: list[Usage] = []

    def ended() -> bool:
        told.extend(plane.plane.take_usage())
        return bool(told) and told[-1].in_flight == 0

    await until(ended)
    # Only answers count, each with the time that the model server took and none of that in the queue.
    assert sum(usage.answers for usage in told) == 4
    assert 2 * 50 <= sum(usage.service_ms for usage in told) < 4 * elapsed_ms + 2 * 20_000
