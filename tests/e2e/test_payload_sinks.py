"""Promises to who brings the payloads of calls elsewhere, and watches models by them."""

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pyarrow.fs
import pytest
from aiokafka import AIOKafkaConsumer

from mesh.protos import admin_pb2, inference_pb2, inference_pb2_grpc, payloads_pb2, payloads_pb2_grpc
from tests.adapters.samples import SVM
from tests.e2e import pods
from tests.e2e.pods import Pod, Pods, Storage
from tests.e2e.users import User, eventually
from tests.payload.receiver import Receiver
from tests.servers.kafka import KafkaBroker
from tests.servers.process import free_port

pytestmark = pytest.mark.timeout(300)

MODEL = "watched"


@pytest.fixture(scope="module")
def mesh(make_pods: Pods) -> Iterator[list[Pod]]:
    """A pod with the built-in runtime, and a pure router that users ask."""
    with make_pods.running(pods.builtin("4MiB"), None) as running:
        yield running


class Asker(User):
    """A user of the model who configures processors."""

    def __init__(self, pod: Pod) -> None:
        super().__init__(pod)
        self._payloads: Any = payloads_pb2_grpc.PayloadsStub(self.channel)
        self._inference: Any = inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    @asynccontextmanager
    async def processor(self, name: str, uri: str, **members: Any) -> AsyncIterator[None]:
        """Has the mesh use a processor for the model, until the block ends."""
        definition = json.dumps({"uri": uri, "models": [MODEL], "batch_wait_ms": 20} | members)
        await self._payloads.Set(
            payloads_pb2.SetProcessorRequest(name=name, definition=definition), timeout=30
        )
        await eventually(lambda: self._is_working(name))
        try:
            yield
        finally:
            await self._payloads.Remove(payloads_pb2.RemoveProcessorRequest(name=name), timeout=30)

    async def counts(self, name: str) -> payloads_pb2.Processor:
        reply = await self._payloads.List(payloads_pb2.ListProcessorsRequest(), timeout=30)
        found: payloads_pb2.Processor = next(one for one in reply.processors if one.name == name)
        return found

    async def delivered(self, name: str, count: int) -> None:
        """Waits until so many payloads were."""

        async def are() -> bool:
            return bool((await self.counts(name)).delivered >= count)

        await eventually(are)

    async def infer(self, row: "np.ndarray[Any, Any]", **headers: str) -> inference_pb2.ModelInferResponse:
        request = inference_pb2.ModelInferRequest(
            model_name=MODEL, raw_input_contents=[row.astype(np.float32).tobytes()]
        )
        request.inputs.add(name="predict", datatype="FP32", shape=[1, 64])
        metadata = [
            ("mm-model-id", MODEL),
            *((name.replace("_", "-"), value) for name, value in headers.items()),
        ]
        answer: inference_pb2.ModelInferResponse = await self._inference.ModelInfer(
            request, metadata=metadata, timeout=60
        )
        return answer

    async def _is_working(self, name: str) -> bool:
        return bool((await self.counts(name)).working)


@pytest.fixture
async def user(mesh: list[Pod], storage: Storage) -> AsyncIterator[Asker]:
    async with Asker(mesh[1]) as one:
        await one.register(MODEL, SVM.format, storage.put(SVM, MODEL), load=True)
        yield one


ROWS = np.random.default_rng(1).integers(0, 16, (12, 64)).astype(np.float32)


async def test_every_sink_gets_every_call_as_its_consumer_expects_it(
    user: Asker, storage: Storage, kafka: KafkaBroker, tmp_path: Path
) -> None:
    if not (storage.s3.path("lake", "")).exists():
        storage.s3.create_bucket("lake")
    lake = {
        "endpoint": storage.s3.endpoint,
        "region": storage.s3.region,
        "access_key_id": storage.s3.access_key_id,
        "secret_access_key": storage.s3.secret_access_key,
    }
    decoded = {"decoded": True}
    async with Receiver().running() as receiver:
        events = {"namespace": "prod", "metadata_headers": ["x-user"]}
        async with (
            user.processor("events", f"cloudevents+{receiver.url}/", options=events),
            user.processor("topic", f"kafka://{kafka.address}/payloads", options=decoded),
            user.processor(
                "lake", "parquet+s3://lake/p", options=decoded | {"storage": lake, "staging": str(tmp_path)}
            ),
            user.processor(
                "lines", f"jsonl://{tmp_path}/lines", redact_tensors=["*"], redact_headers=["x-user"]
            ),
        ):
            answers = [await user.infer(row, x_user=f"u{number}") for number, row in enumerate(ROWS)]
            for name in ("events", "topic", "lake", "lines"):
                await user.delivered(name, 2 * len(ROWS))
    inputs = sorted(row.tolist() for row in ROWS)

    asked = [post for post in receiver.posts if post.headers["Ce-Type"].endswith("request")]
    answered = [post for post in receiver.posts if post.headers["Ce-Type"].endswith("response")]
    assert sorted(json.loads(post.body)["inputs"][0]["data"] for post in asked) == inputs
    assert {post.headers["Ce-Id"] for post in asked} == {post.headers["Ce-Id"] for post in answered}
    assert len({post.headers["Ce-Id"] for post in asked}) == len(ROWS)
    users = {json.dumps({"X-User": [f"u{number}"]}, separators=(",", ":")) for number in range(len(ROWS))}
    assert {post.headers["Ce-Metadata"] for post in asked} == users
    assert {post.headers["Ce-Inferenceservicename"] for post in receiver.posts} == {MODEL}

    records = [json.loads(record.value) for record in await consumed(kafka, "payloads", 2 * len(ROWS))]
    outputs = [record["message"]["outputs"][0] for record in records if record["kind"] == "response"]
    wanted = sorted(np.frombuffer(answer.raw_output_contents[0], np.int64).tolist() for answer in answers)
    assert sorted(output["data"] for output in outputs) == wanted

    system = pyarrow.fs.S3FileSystem(
        access_key=lake["access_key_id"],
        secret_key=lake["secret_access_key"],
        endpoint_override=lake["endpoint"],
        region=lake["region"],
    )

    def stored() -> list[Any]:
        found = pyarrow.dataset.dataset(f"lake/p/{MODEL}/request", filesystem=system)
        return list(found.to_table().column("tensor_predict").to_pylist())

    async def all_is_stored() -> bool:
        try:
            return sorted(await asyncio.to_thread(stored)) == inputs
        except FileNotFoundError:
            return False

    await eventually(all_is_stored)

    (path,) = (tmp_path / "lines").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2 * len(ROWS)
    assert {line["metadata"].get("x-user", "[redacted]") for line in lines} == {"[redacted]"}
    assert sum("x-user" in line["metadata"] for line in lines) == len(ROWS)


async def consumed(broker: KafkaBroker, topic: str, count: int) -> list[Any]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker.address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


async def test_sinks_that_hang_fail_or_are_gone_cost_payloads_and_no_request(user: Asker) -> None:
    brief = {"timeout_ms": 300, "attempts": 1, "capacity": 8, "batch_size": 4, "consumers": 1}
    async with Receiver().running() as hanging, Receiver().running() as failing:
        hanging.answers = [None] * 1_000
        failing.answers = [500] * 1_000
        async with (
            user.processor("hangs", f"cloudevents+{hanging.url}/", options={"timeout_s": 60}, **brief),
            user.processor("fails", f"cloudevents+{failing.url}/", **brief),
            user.processor("gone", f"kafka://127.0.0.1:{free_port()}/t", **brief),
        ):
            for _ in range(5):
                for row in ROWS:
                    await user.infer(row)
            payloads = 2 * 5 * len(ROWS)
            for name in ("hangs", "fails", "gone"):
                await self_consistent(user, name, payloads)
            reasons = {name: set((await user.counts(name)).lost) for name in ("hangs", "fails", "gone")}
    assert "timeout" in reasons["hangs"]
    assert len(reasons["hangs"]) == 2, "those that found no room are counted apart"
    assert "failed" in reasons["fails"]
    assert reasons["gone"] & {"failed", "timeout"}


async def self_consistent(user: Asker, name: str, payloads: int) -> None:
    """Every payload ends as lost or delivered, and only once."""

    async def are_all_counted() -> bool:
        counts = await user.counts(name)
        return bool(not counts.waiting and not counts.in_flight and sum(counts.lost.values()) == payloads)

    await eventually(are_all_counted)
    assert (await user.counts(name)).delivered == 0


async def test_a_monitor_tells_of_drift_in_metrics_decisions_and_events(
    mesh: list[Pod], user: Asker, tmp_path: Path
) -> None:
    random = np.random.default_rng(2)
    np.savez(tmp_path / "usual.npz", predict=random.normal(8, 2, (500, 64)))
    async with Receiver().running() as receiver:
        options = {
            "reference": str(tmp_path / "usual.npz"),
            "window": {"rows": 100},
            "events": f"{receiver.url}/alerts",
        }
        async with user.processor("drift", "monitor:", options=options, consumers=1):
            for _ in range(100):
                await user.infer(random.normal(8, 2, 64))
            await eventually(lambda: metric(mesh[1], "modelmesh_drift_windows_total") == 1)
            assert metric(mesh[1], "modelmesh_drift_features") == 0
            for _ in range(100):
                row = random.normal(8, 2, 64)
                row[5] = 0
                await user.infer(row)
            await eventually(lambda: metric(mesh[1], "modelmesh_drift_features") == 1)
            assert (metric(mesh[1], "modelmesh_drift_stability_index", feature="predict[5]") or 0) > 1
            await eventually(lambda: bool(receiver.posts))
        event = json.loads(receiver.posts[0].body)
        explained = await user._admin.Explain(admin_pb2.ExplainRequest(model_id=MODEL, limit=100), timeout=30)
        assert "1 of 64 features have drifted in 100 rows" in str(explained)
    assert event["subject"] == MODEL
    assert [feature["name"] for feature in event["data"]["features"]] == ["predict[5]"]


def metric(pod: Pod, name: str, **labels: str) -> float | None:
    """A sample of the pod's metrics."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{pod.instance.metrics_port}/metrics", timeout=10
    ) as answer:
        for line in answer.read().decode().splitlines():
            if re.match(rf"{name}[{{ ]", line) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                return float(line.rpartition(" ")[2])
    return None
