import asyncio
import dataclasses
import json
import ssl
from typing import Any

import pytest

from mesh.payload import InvalidProcessor, NotDelivered, open_processor
from mesh.payload.messages import STREAM_INFER
from tests.payload.inference import call
from tests.payload.parts import options, request, response
from tests.payload.receiver import Receiver
from tests.servers.tls import Certificates

KSERVE = {
    "Ce-Specversion",
    "Ce-Type",
    "Ce-Id",
    "Ce-Source",
    "Ce-Time",
    "Ce-Recordedtime",
    "Ce-Inferenceservicename",
    "Ce-Namespace",
    "Ce-Component",
    "Ce-Endpoint",
    "Ce-Metadata",
    "Ce-Annotations",
    "Content-Type",
}


async def send(receiver: Receiver, batch: Any, **members: Any) -> None:
    sink = open_processor(f"cloudevents+{receiver.url}/sink?x=1", options(**members))
    try:
        await sink.process(batch)
    finally:
        await sink.close(1)


async def test_events_are_those_of_kserves_logger() -> None:
    metadata = (("x-user", "a"), ("x-user", "b"), ("x-other", "c"))
    asked, answered = call(1, [[1.0, 2.0]], metadata=metadata, vmodel_id="digits", model_id="digits-v2")
    async with Receiver().running() as receiver:
        await send(
            receiver,
            [asked, answered],
            namespace="prod",
            endpoint="default",
            metadata_headers=["X-User", "x-missing"],
            annotations={"team": "vision"},
        )
    assert sorted(post.headers["Ce-Type"] for post in receiver.posts) == [
        "org.kubeflow.serving.inference.request",
        "org.kubeflow.serving.inference.response",
    ]
    first, second = sorted(receiver.posts, key=lambda post: post.headers["Ce-Type"])
    assert {name for name in first.headers if name.startswith(("Ce-", "Content-T"))} == KSERVE
    assert first.path == "/sink?x=1"
    assert first.headers["Ce-Id"] == second.headers["Ce-Id"]
    assert first.headers["Ce-Source"] == "i1"
    assert first.headers["Ce-Inferenceservicename"] == "digits"
    assert first.headers["Ce-Component"] == "predictor"
    assert first.headers["Ce-Time"] == "2023-11-14T22:13:20.000000Z"
    assert first.headers["Ce-Recordedtime"] > first.headers["Ce-Time"]
    for post in (first, second):
        assert json.loads(post.headers["Ce-Metadata"]) == {"X-User": ["a", "b"]}
        assert json.loads(post.headers["Ce-Annotations"]) == {"team": "vision"}
        assert post.headers["Content-Type"] == "application/json"
    assert json.loads(first.body)["inputs"] == [
        {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 2.0]}
    ]
    assert json.loads(second.body)["outputs"][0]["data"] == [0.5]


async def test_the_callers_event_id_is_kept_and_messages_are_sent_as_they_were() -> None:
    batch = [request(b"\x01", metadata=(("ce-id", "mine"),)), response(b"\x02"), request(b"\x03", id="c2")]
    async with Receiver().running() as receiver:
        await send(receiver, batch, body="message", model_attributes=True, parallel=1)
    one, two, three = receiver.posts
    assert (one.headers["Ce-Id"], two.headers["Ce-Id"]) == ("mine", "mine")
    assert three.headers["Ce-Id"] not in ("mine", "c2")
    assert (one.body, two.body, one.headers["Content-Type"]) == (b"\x01", b"\x02", "application/octet-stream")
    assert one.headers["Ce-Metadata"] == "{}"
    assert "Ce-Namespace" not in one.headers
    assert one.headers["Ce-Modelid"] == "m"
    assert one.headers["Ce-Method"].endswith("/ModelInfer")


@pytest.mark.parametrize(
    ("members", "kinds"),
    [
        ({"mode": "request"}, ["request", "request"]),
        ({"mode": "response"}, ["response"]),
        ({"mode": "response", "errors": True}, ["response", "response"]),
        ({}, ["request", "response", "request"]),
    ],
)
async def test_the_mode_says_which_side_is_sent(members: dict[str, Any], kinds: list[str]) -> None:
    batch = [*call(1, [1.0]), request(id="c2"), response(None, id="c2", status="INTERNAL")]
    async with Receiver().running() as receiver:
        await send(receiver, batch, parallel=1, **members)
    assert [post.headers["Ce-Type"].rpartition(".")[2] for post in receiver.posts] == kinds


async def test_attributes_cannot_break_out_of_their_header_and_messages_of_streams_differ() -> None:
    batch = [response(b"", method=STREAM_INFER, model_id="a\r\nX-Evil: 1 é", sequence=2)]
    async with Receiver().running() as receiver:
        await send(receiver, batch)
    (post,) = receiver.posts
    assert post.headers["Ce-Inferenceservicename"] == "a%0D%0AX-Evil: 1 %C3%A9"
    assert "X-Evil" not in post.headers
    assert post.headers["Ce-Sequence"] == "2"


async def test_what_was_not_taken_is_told_so_that_it_alone_is_tried_again() -> None:
    batch = [request(id=f"c{number}") for number in range(4)]
    async with Receiver().running() as receiver:
        receiver.answers = [200, 503, 400, 200]
        receiver.headers = {"Retry-After": "7"}
        with pytest.raises(NotDelivered, match="status") as raised:
            await send(receiver, batch, parallel=1, body="message")
        assert raised.value.payloads == [batch[1], batch[2]]
        assert raised.value.retry
        assert raised.value.retry_after_s == 7
        receiver.answers = [400]
        with pytest.raises(NotDelivered, match="status 400") as raised:
            await send(receiver, batch[:1], body="message")
        assert not raised.value.retry
    assert len(receiver.posts) == 2


async def test_a_server_that_hangs_or_is_gone_is_an_attempt_that_failed() -> None:
    batch = [request()]
    async with Receiver().running() as receiver:
        receiver.answers = [None]
        with pytest.raises(NotDelivered, match="Timeout"):
            await send(receiver, batch, timeout_s=0.2)
    with pytest.raises(NotDelivered, match="ClientConnectorError"):
        await send(receiver, batch)


async def test_what_was_taken_before_the_batch_was_late_is_not_sent_again() -> None:
    batch = [request(id=f"c{number}") for number in range(4)]
    async with Receiver().running() as receiver:
        receiver.answers = [200, None, 200, 200]
        given = dataclasses.replace(options(body="message", parallel=2), timeout_s=1.0)
        sink = open_processor(f"cloudevents+{receiver.url}", given)
        with pytest.raises(NotDelivered, match="no answer in time") as raised:
            await sink.process(batch)
        await sink.close(1)
    assert len(raised.value.payloads or ()) == 1
    assert raised.value.reason == "timeout"
    assert len(receiver.posts) == 3


def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server_cert, certificates.server_key)
    return context


async def test_servers_are_trusted_by_a_private_authority_or_by_nobodys(certificates: Certificates) -> None:
    batch = [request()]
    async with Receiver().running(server_context(certificates)) as receiver:
        await send(receiver, batch, ca_file=str(certificates.ca))
        await send(receiver, batch, tls_skip_verify=True)
        with pytest.raises(NotDelivered, match="certificate verify failed"):
            await send(receiver, batch)
    assert len(receiver.posts) == 2


@pytest.mark.parametrize(
    ("uri", "members", "message"),
    [
        ("cloudevents+http:///path", {}, "has no host"),
        ("cloudevents+https://h", {"ca_file": "/no/such"}, "/no/such cannot be read as certificates"),
        ("cloudevents+http://h", {"mode": "both"}, r"both.*options\.mode"),
        ("cloudevents+http://h", {"modus": "all"}, r"options\.modus is not known; there are mode"),
    ],
)
async def test_what_cannot_be_is_refused(uri: str, members: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProcessor, match=message):
        open_processor(uri, options(**members))


async def test_events_of_a_batch_are_sent_side_by_side() -> None:
    batch = [request(id=f"c{number}") for number in range(8)]
    async with Receiver().running() as receiver:
        receiver.answers = [None] * 7
        sink = open_processor(f"cloudevents+{receiver.url}", options(parallel=8, body="message"))
        sending = asyncio.create_task(sink.process(batch))
        async with asyncio.timeout(10):
            while not receiver.posts:
                await asyncio.sleep(0.01)
        sending.cancel()
        await sink.close(1)
