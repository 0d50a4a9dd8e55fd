import asyncio
import json
import ssl
from pathlib import Path

import pytest
import trustme

from mesh.payload import InvalidProcessor, NotDelivered, Options, open_processor
from tests.payload.parts import METHOD, Told, options, request, response
from tests.payload.sink_server import SinkServer


async def test_a_payload_is_posted_byte_for_byte_as_modelmesh_does_with_the_method_besides() -> None:
    async with SinkServer() as receiver:
        processor = open_processor(receiver.uri + "?A", options())
        metadata = (("h", "v1"), ("h", "v2"), ("h-bin", b"\x00\xff"))
        await processor.process([request(b"hello", id="49-1", model_id="A", metadata=metadata)])
        await processor.process([response(None, id="49-1", model_id="", vmodel_id="v", status="INTERNAL")])
        await processor.close(1)
    assert receiver.bodies == [
        b'{"id":"49-1","modelid":"A","vModelId":null,"data":"aGVsbG8=","kind":"request","status":"",'
        b'"metadata":{"h":"v2","h-bin":"AP8="},"method":"' + METHOD.encode() + b'"}',
        b'{"id":"49-1","modelid":null,"vModelId":"v","data":"","kind":"response","status":"INTERNAL",'
        b'"metadata":{},"method":"' + METHOD.encode() + b'"}',
    ]
    posted = receiver.requests[0]
    assert (posted.method, posted.raw_path) == ("POST", "/sink?A")
    assert posted.headers["Content-Type"] == "application/json"


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, str]:
    authority = trustme.CA()
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority, str(path)


async def test_https_trusts_a_private_authority_if_it_is_told_to(authority: tuple[trustme.CA, str]) -> None:
    issuer, path = authority
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issuer.issue_cert("localhost").configure_cert(tls)
    async with SinkServer(tls) as receiver:
        for trusting in (
            options(ca_file=path),
            options(verify=False),
            Options("tested", Told(), ca_file=path),
        ):
            processor = open_processor(receiver.uri, trusting)
            await processor.process([request()])
            await processor.close(1)
        assert len(receiver.payloads) == 3
        processor = open_processor(receiver.uri, options())
        with pytest.raises(NotDelivered, match="certificate"):
            await processor.process([request()])
        await processor.close(1)


@pytest.mark.parametrize(("status", "retry"), [(302, False), (400, False), (429, True), (500, True)])
async def test_a_refused_payload_is_told_with_whether_it_may_be_taken_later(status: int, retry: bool) -> None:
    async with SinkServer() as receiver:
        receiver.status, receiver.answer_headers = status, {"Retry-After": "7", "Location": "/elsewhere"}
        processor = open_processor(receiver.uri, options())
        with pytest.raises(NotDelivered, match=str(status)) as caught:
            await processor.process([request(), response()])
        await processor.close(1)
    assert caught.value.retry is retry
    assert caught.value.retry_after_s == 7
    assert len(caught.value.payloads or ()) == 2


async def test_a_server_that_hangs_costs_only_what_it_has_not_answered() -> None:
    async with SinkServer() as receiver:
        processor = open_processor(receiver.uri, Options("tested", Told(), {"connections": 1}, timeout_s=1.0))

        async def hang_soon() -> None:
            while not receiver.bodies:
                await asyncio.sleep(0.001)
            receiver.hangs = True

        hanging = asyncio.create_task(hang_soon())
        batch = [request(str(number).encode()) for number in range(500)]
        with pytest.raises(NotDelivered) as caught:
            await processor.process(batch)
        await hanging
        await processor.close(1)
    assert caught.value.reason == "timeout"
    undone = list(caught.value.payloads or ())
    assert 0 < len(undone) < 500
    assert undone == batch[len(receiver.bodies) :]


async def test_nobody_there_is_worth_another_attempt() -> None:
    async with SinkServer() as receiver:
        uri = receiver.uri
    processor = open_processor(uri, options())
    with pytest.raises(NotDelivered, match="Cannot connect") as caught:
        await processor.process([request()])
    assert caught.value.retry
    await processor.close(1)


@pytest.mark.parametrize(
    ("uri", "members", "why"),
    [
        ("http:///path", {}, "no host"),
        ("https://host/", {"ca_file": "/no/such/file"}, "/no/such/file cannot be read as certificates"),
        ("http://host/", {"header": 1}, "options.header is not known; there are ca_file"),
        ("http://host/", {"connections": 0}, "connections"),
        ("logger:///", {"level": "INFO"}, "takes no options"),
    ],
)
async def test_what_cannot_be_configured_is_refused_by_name(
    uri: str, members: dict[str, object], why: str
) -> None:
    with pytest.raises(InvalidProcessor, match=why):
        open_processor(uri, options(**members))


async def test_headers_of_ones_own_are_sent() -> None:
    async with SinkServer() as receiver:
        processor = open_processor(receiver.uri, options(headers={"Authorization": "Bearer x"}))
        await processor.process([request()])
        await processor.close(1)
    assert receiver.requests[0].headers["Authorization"] == "Bearer x"
    assert json.loads(receiver.bodies[0])["data"] == "cQ=="
