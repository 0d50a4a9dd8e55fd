"""What the log says of single requests."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from mesh.instance import SettingError, Settings, logs
from mesh.instance.settings import RequestLogSettings
from mesh.protos import model_mesh_pb2 as api
from tests.instance.meshes import Client, Mesh, eventually

_SETTINGS = {"MM_SERVICE_NAME": "tests", "KV_STORE": "memory:"}


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log as it is written."""
    root, mesh_log = logging.getLogger(), logging.getLogger("mesh")
    handlers, levels = root.handlers[:], (root.level, mesh_log.level)
    written = io.StringIO()
    logs.configure("INFO", written)
    yield written
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    mesh_log.setLevel(levels[1])


def _found(lines: io.StringIO, message: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    return [line for line in told if line["message"].startswith(message)]


async def _infer(client: Client, model_id: str, *headers: tuple[str, str | bytes]) -> None:
    call: Any = client.channel.unary_unary("/test.Echo/Call")
    await call(b"x", metadata=(("mm-model-id", model_id), *headers), timeout=10)


async def test_each_invocation_is_logged_where_the_model_server_is_and_only_if_wanted(
    mesh: Mesh, lines: io.StringIO
) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    for client in clients:
        await client.infer("m")
    config = mesh.instances[0].registry.config
    await config.update("log_each_invocation", lambda _: "true")
    await eventually(lambda: "log_each_invocation" in mesh.instances[1].registry.config)
    assert not _found(lines, "invoking")
    for client in clients:
        await client.infer("m")
    await eventually(lambda: len(_found(lines, "invoking model runtime gRPC method: test.Echo/Call")) == 2)
    assert {line["model"] for line in _found(lines, "invoking")} == {"m"}
    await config.update("log_each_invocation", lambda _: None)
    await eventually(lambda: "log_each_invocation" not in mesh.instances[1].registry.config)
    for client in clients:
        await client.infer("m")
    assert len(_found(lines, "invoking")) == 2


async def test_failed_requests_are_logged_with_the_headers_that_were_asked_for(
    mesh: Mesh, lines: io.StringIO
) -> None:
    headers = '{"Transaction-Id": "txid", "user-bin": "user", "absent": "absent"}'
    settings = Settings.from_environment({**_SETTINGS, "MM_LOG_REQUEST_HEADERS": headers})
    client = await mesh.add(request_log=settings.request_log)
    sent = (("transaction-id", "42"), ("user-bin", "jürgen".encode()))
    await client.register("m", load=True, sync=True)
    mesh.runtimes[0].refuse_calls["m"] = (grpc.StatusCode.FAILED_PRECONDITION, "no")
    for model in ("m", "unknown"):
        with suppress(grpc.aio.AioRpcError):
            await _infer(client, model, *sent)
    with suppress(grpc.aio.AioRpcError):
        await client.management.ensureLoaded(
            api.EnsureLoadedRequest(modelId="never-heard-of"), metadata=sent, timeout=10
        )
    await eventually(lambda: len(_found(lines, "request failed")) == 3)
    told = {line["model"]: line for line in _found(lines, "request failed")}
    assert {model: line["status"] for model, line in told.items()} == {
        "m": "FAILED_PRECONDITION",
        "unknown": "NOT_FOUND",
        "never-heard-of": "NOT_FOUND",
    }
    for line in told.values():
        assert (line["txid"], line["user"], line["level"]) == ("42", "jürgen", "ERROR")
        assert "absent" not in line


async def test_what_the_mesh_does_for_a_request_is_logged_with_its_headers(
    mesh: Mesh, lines: io.StringIO
) -> None:
    client = await mesh.add(request_log=RequestLogSettings(headers=(("transaction-id", "txid"),)))
    await client.register("m")
    await _infer(client, "m", ("transaction-id", "43"))
    (loaded,) = _found(lines, "loaded")
    assert loaded["txid"] == "43"
    await client.register("n", load=True, sync=True)
    assert "txid" not in _found(lines, "loaded")[1]


@pytest.mark.parametrize("value", ["{}", "[]", '{"a": 1}', '{"a b": "c"}', '{"a": ""}'])
def test_headers_that_cannot_be_logged_are_refused(value: str) -> None:
    with pytest.raises(SettingError, match="MM_LOG_REQUEST_HEADERS"):
        Settings.from_environment({**_SETTINGS, "MM_LOG_REQUEST_HEADERS": value})
