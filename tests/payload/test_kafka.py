import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from mesh.payload import InvalidProcessor, NotDelivered, open_processor
from tests.payload.inference import call
from tests.payload.parts import options, request
from tests.servers.kafka import KafkaBroker
from tests.servers.process import free_port
from tests.servers.tls import Certificates


async def consumed(broker: KafkaBroker, topic: str, count: int) -> list[Any]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker.address, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


async def test_payloads_become_records_in_order(kafka: KafkaBroker) -> None:
    sink = open_processor(f"kafka://{kafka.address}/records", options(decoded=True, compression="gzip"))
    for number in range(3):
        await sink.process(call(number, [[float(number)]]))
    await sink.close(5)
    records = await consumed(kafka, "records", 6)
    assert [record.key for record in records] == [b"c0", b"c0", b"c1", b"c1", b"c2", b"c2"]
    values = [json.loads(record.value) for record in records]
    assert [value["kind"] for value in values] == ["request", "response"] * 3
    assert [value["message"]["inputs"][0]["data"] for value in values[::2]] == [[0.0], [1.0], [2.0]]


async def test_records_are_cloudevents_where_asked_for(kafka: KafkaBroker) -> None:
    members = {"format": "cloudevents", "mode": "response", "key": "model", "acks": "leader"}
    sink = open_processor(f"kafka://{kafka.address}/events", options(**members))
    await sink.process(call(1, [1.0]))
    await sink.close(5)
    (record,) = await consumed(kafka, "events", 1)
    headers = dict(record.headers)
    assert record.key == b"m"
    assert headers["ce_type"] == b"org.kubeflow.serving.inference.response"
    assert headers["ce_specversion"] == b"1.0"
    assert headers["content-type"] == b"application/json"
    assert json.loads(record.value)["outputs"][0]["data"] == [0.5]


async def test_what_is_too_large_is_lost_alone(kafka: KafkaBroker) -> None:
    sink = open_processor(f"kafka://{kafka.address}/sizes", options(max_message_bytes=2_000))
    large, small = request(b"x" * 3_000, id="large"), request(id="small")
    with pytest.raises(NotDelivered, match=r"options\.max_message_bytes") as raised:
        await sink.process([large, small])
    await sink.close(5)
    assert (raised.value.payloads, raised.value.retry, raised.value.reason) == ([large], False, "too_large")
    (record,) = await consumed(kafka, "sizes", 1)
    assert record.key == b"small"


async def test_brokers_are_trusted_by_a_private_authority_and_told_who_sends(
    kafka: KafkaBroker, certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(f"{kafka.password}\n")
    members = {
        "sasl_mechanism": "PLAIN",
        "sasl_username": kafka.user,
        "sasl_password_file": str(tmp_path / "password"),
        "request_timeout_ms": 2_000,
    }
    uri = f"kafka+ssl://{kafka.safe_address}/safe"
    sink = open_processor(uri, options(**members, ca_file=str(certificates.ca)))
    await sink.process([request(id="safe")])
    await sink.close(5)
    (record,) = await consumed(kafka, "safe", 1)
    assert record.key == b"safe"
    for wrong in ({}, {"ca_file": str(certificates.ca), "sasl_username": "other"}):
        sink = open_processor(uri, options(**members | wrong))
        with pytest.raises(NotDelivered, match="no broker of 127"):
            await sink.process([request()])
        await sink.close(1)


async def test_a_broker_that_is_not_there_is_an_attempt_that_failed() -> None:
    sink = open_processor(f"kafka://127.0.0.1:{free_port()}/t", options(request_timeout_ms=500))
    with pytest.raises(NotDelivered, match="no broker of 127"):
        await sink.process([request()])
    await sink.close(1)


async def test_a_broker_that_hangs_makes_records_late_and_not_double(kafka: KafkaBroker) -> None:
    given = dataclasses.replace(options(request_timeout_ms=1_000), timeout_s=2.0)
    sink = open_processor(f"kafka://{kafka.address}/late", given)
    await sink.process([request(id="before")])
    await asyncio.to_thread(kafka.process.pause)
    try:
        with pytest.raises(NotDelivered, match="no answer in time") as raised:
            await sink.process([request(id="meanwhile")])
    finally:
        kafka.process.resume()
    assert raised.value.reason == "timeout"
    await sink.process([request(id="after")])
    await sink.close(20)
    keys = [record.key for record in await consumed(kafka, "late", 2)]
    assert keys[0] == b"before"
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("uri", "members", "message"),
    [
        ("kafka://host:9092", {}, r"must name brokers and a topic, as in kafka://host:9092,host:9092/topic"),
        ("kafka://user:secret@host/t", {}, "must name brokers"),
        ("kafka+ssl://host/t", {"ca_file": "/no/such"}, "/no/such cannot be read"),
        ("kafka://host/t", {"sasl_mechanism": "PLAIN"}, "sasl_password_file"),
        ("kafka://host/t", {"acks": "0"}, r"options\.acks"),
    ],
)
def test_what_cannot_be_is_refused(uri: str, members: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProcessor, match=message):
        open_processor(uri, options(**members))
