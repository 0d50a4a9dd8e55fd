"""How an instance starts, tells whether it is ready, follows what operators change, and leaves."""

import asyncio
import json
import logging
import socket
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.instance import LifecycleSettings, SettingError, Settings, StartRefused
from mesh.instance import instance as instance_module
from mesh.instance.prestop import Prestop
from mesh.instance.settings import RegistrationSettings
from mesh.protos import admin_pb2, inference_pb2, inference_pb2_grpc
from mesh.protos import model_mesh_pb2 as api
from mesh.registry import INSTANCES, InstanceRecord, MemoryStore
from tests.instance.meshes import Client, Mesh, eventually
from tests.instance.scripted_runtime import ScriptedRuntime

Status = api.ModelStatusInfo
_KEYS = "/tas-runtime/tests/"


@pytest.fixture(autouse=True)
def _short_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no load balancer here that would have to take notice of one that leaves."""
    monkeypatch.setattr(instance_module, "LEAVE_PAUSE_S", 0.1)


async def _write(mesh: Mesh, key: str, value: str | bytes | None) -> None:
    """Writes into the registry as an operator does."""
    store = MemoryStore(mesh.registry)
    if value is None:
        await store.delete(_KEYS + key)
    else:
        await store.put(_KEYS + key, value.encode() if isinstance(value, str) else value)
    await store.close()


async def _server_ready(client: Client) -> bool:
    stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(client.channel)
    return bool((await stub.ServerReady(inference_pb2.ServerReadyRequest(), timeout=10)).ready)


async def _failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


# Ready or not


async def test_an_instance_waits_until_no_other_is_leaving(mesh: Mesh) -> None:
    first = await mesh.add()
    leaver = INSTANCES.encode(InstanceRecord(shutting_down=True, capacity=1_000))
    await _write(mesh, "instances/leaver", leaver)
    await eventually(lambda: "leaver" in mesh.instances[0].registry.instances)
    client = await mesh.add()
    health = mesh.instances[1].health
    assert health.reasons == ("waiting until leaver has left the mesh",)
    assert mesh.instances[0].health.ready, "who was ready before stays so"
    assert not await _server_ready(client)
    assert await _server_ready(first)
    await _write(mesh, "instances/leaver", None)
    await eventually(lambda: _server_ready(client))
    await _write(mesh, "instances/leaver", leaver)
    await eventually(lambda: "leaver" in mesh.instances[1].registry.instances)
    assert health.ready


async def test_an_instance_that_cannot_load_what_others_have_stays_unready(mesh: Mesh) -> None:
    client = await mesh.add(ScriptedRuntime(mesh.socket(), loading_timeout_ms=100))
    for number in range(3):
        await client.register(f"m{number}", load=True, sync=True)
    runtime = ScriptedRuntime(mesh.socket(), loading_timeout_ms=100)
    runtime.refuse = {f"m{number}": (grpc.StatusCode.INTERNAL, "wrong release") for number in range(3)}
    await mesh.add(runtime)
    await mesh.settle()
    health = mesh.instances[1].health
    assert health.ready
    # A copy whose load began so long ago is loaded.
    await asyncio.sleep(0.2)
    placer = mesh.instances[0].parts.placer
    for number in range(3):
        with pytest.raises(Exception, match="wrong release"):
            await placer.copy_elsewhere(f"m{number}", last_used_ms=0)
    await eventually(lambda: not health.ready)
    assert "m0, m1, m2 failed here" in health.reasons[0]
    assert mesh.instances[0].health.ready


async def test_an_instance_whose_upkeep_broke_off_is_not_ready(mesh: Mesh) -> None:
    await mesh.add()
    instance = mesh.instances[0]
    assert instance.health.ready

    def broken() -> None:
        raise RuntimeError("no usage today")

    assert instance.parts.loader is not None
    instance.parts.loader.read_usage = broken  # type: ignore[method-assign]
    await eventually(lambda: not instance.health.ready)
    assert "background task usage broke off" in instance.health.reasons[0]
    assert "no usage today" in instance.health.reasons[0]


# What operators change


async def test_config_keys_apply_while_they_are_there(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("mesh")
    before = logger.level
    try:
        await mesh.add(log_level="WARNING")
        await _write(mesh, "config/logger_level", "debug")
        await eventually(lambda: logger.level == logging.DEBUG)
        await _write(mesh, "config/logger_level", "WARN")
        await eventually(lambda: logger.level == logging.WARNING)
        await _write(mesh, "config/logger_level", "FATAL")
        await eventually(lambda: logger.level == logging.CRITICAL)
        await _write(mesh, "config/logger_level", "chatty")
        await eventually(lambda: logger.level == logging.WARNING)
        assert "config key logger_level='chatty' cannot be used" in caplog.text
        await _write(mesh, "config/logger_level", None)
        await _write(mesh, "config/loger_level", "INFO")
        await eventually(lambda: "did you mean logger_level?" in caplog.text)
    finally:
        logger.setLevel(before)


async def test_an_instance_of_a_disabled_mesh_does_not_start(mesh: Mesh) -> None:
    await _write(mesh, "config/disable", "for the holidays")
    with pytest.raises(StartRefused, match="config key disable"):
        await mesh.add()
    await _write(mesh, "config/disable", "false")
    await mesh.add()


def _config(path: Path, config: object) -> None:
    """Replaces a mounted file as Kubernetes does: a link of its folder is moved."""
    version = path.parent / f"..{len(list(path.parent.iterdir()))}"
    version.mkdir()
    (version / path.name).write_text(config if isinstance(config, str) else json.dumps(config))
    moved = path.parent / "..new"
    moved.symlink_to(version.name)
    moved.rename(path.parent / "..data")
    if not path.is_symlink():
        path.symlink_to(Path("..data") / path.name)


async def test_a_mounted_dataplane_config_is_followed(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    path = tmp_path / "mounted" / "dataplane"
    start = asyncio.create_task(mesh.add(dataplane_config_path=str(path)))
    await asyncio.sleep(0.1)
    _config(path, {"rpcConfigs": {"test.Other/Call": {}}})
    client = await start
    await client.register("m")
    assert (await _failure(client.infer("m"))).code() is grpc.StatusCode.UNIMPLEMENTED
    _config(path, {"rpcConfigs": {"test.Echo/Call": {"idExtractionPath": [1]}}})

    async def extracts() -> bool:
        try:
            return await client.infer("other", body=b"\x0a\x01m") == b"m:\x0a\x01m"
        except grpc.aio.AioRpcError:
            return False

    await eventually(extracts)
    _config(path, "{ broken")
    await eventually(lambda: mesh.instances[0].rules.trouble)
    assert await extracts(), "what could be used last is in effect"


async def test_a_dataplane_config_that_cannot_be_used_keeps_an_instance_from_starting(
    mesh: Mesh, tmp_path: Path
) -> None:
    path = tmp_path / "dataplane"
    path.write_text('{"rpcConfig": {}}')
    with pytest.raises(StartRefused, match=r"MM_DATAPLANE_CONFIG_PATH.*unknown property 'rpcConfig'"):
        await mesh.add(dataplane_config_path=str(path))


async def test_in_read_only_mode_models_are_served_and_neither_added_nor_removed(mesh: Mesh) -> None:
    writer = await mesh.add()
    await writer.register("m", path="p")
    reader = await mesh.add(lifecycle=LifecycleSettings(prestop_port=None, read_only=True))
    await mesh.settle()
    assert (await reader.register("m", path="p")).status == Status.NOT_LOADED
    assert await reader.infer("m") == b"m:x"
    for call in (reader.register("n"), reader.unregister("m")):
        error = await _failure(call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "read-only mode" in str(error.details())
    await reader.unregister("n")
    assert (await writer.status("m")).status == Status.LOADED


# Models that the settings list


def _listed(text: str) -> RegistrationSettings:
    settings = {"MM_SERVICE_NAME": "tests", "KV_STORE": "memory:", "MM_AUTO_REGISTER_MODELS": text}
    return Settings.from_environment(settings).registrations


async def test_listed_models_are_there_when_the_first_request_comes(mesh: Mesh) -> None:
    listed = _listed(
        """[{"modelId": "plain", "modelInfo": {"type": "test", "path": "p", "key": "k"}},
            {"modelId": "warm", "modelInfo": {"type": "test"}, "ensureLoaded": true},
            {"modelId": "v1", "modelInfo": {"type": "test"}, "vModelId": "alias", "retainAfterTransition": true},
            {"modelId": "w1", "modelInfo": {"type": "test"}, "vModelId": "other"}]"""
    )
    starting = asyncio.gather(*(mesh.add(registrations=listed) for _ in range(2)))
    client, _ = await starting
    assert mesh.loads("warm") == 1, "who came second found it loaded"
    models = mesh.instances[0].registry.models
    assert (models["plain"].type, models["plain"].path, models["plain"].key) == ("test", "p", "k")
    assert await client.infer_vmodel("alias") == b"v1:x"
    assert {model: record.auto_delete for model, record in models.items() if record.refs} == {
        "v1": False,
        "w1": True,
    }


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ({"modelId": "taken", "modelInfo": {"type": "test"}}, "already exists with different attribute"),
        ({"modelId": "bad", "modelInfo": {"type": "test"}, "ensureLoaded": True}, "not a model"),
    ],
)
async def test_an_instance_whose_listed_models_are_not_to_be_had_does_not_start(
    mesh: Mesh, model: dict[str, Any], why: str
) -> None:
    client = await mesh.add()
    await client.register("taken", model_type="another")
    runtime = ScriptedRuntime(mesh.socket())
    for one in (runtime, mesh.runtimes[0]):
        one.refuse["bad"] = (grpc.StatusCode.INVALID_ARGUMENT, "not a model")
    with pytest.raises(StartRefused, match=why):
        await mesh.add(runtime, registrations=_listed(json.dumps([model])))


@pytest.mark.parametrize(
    "text",
    ["{", "{}", '[{"modelId": "m"}]', '[{"modelId": "", "modelInfo": {"type": "t"}}]', '[{"modelID": "m"}]'],
)
def test_a_list_of_models_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="MM_AUTO_REGISTER_MODELS"):
        _listed(text)


# What the instance tells of itself


async def test_the_whole_state_is_for_those_who_know_the_token(mesh: Mesh) -> None:
    secret = await mesh.add(
        dump_token="guess me",
        registrations=_listed('[{"modelId": "listed", "modelInfo": {"type": "test", "key": "do-not-tell"}}]'),
    )
    closed = await mesh.add()
    await mesh.settle()
    await secret.register("m", load=True, sync=True)
    for client, token, code in (
        (secret, "", grpc.StatusCode.UNAUTHENTICATED),
        (secret, "guess", grpc.StatusCode.UNAUTHENTICATED),
        (closed, "", grpc.StatusCode.PERMISSION_DENIED),
        (closed, "guess me", grpc.StatusCode.PERMISSION_DENIED),
    ):
        request = admin_pb2.DumpStateRequest(token=token)
        assert (await _failure(client.admin.DumpState(request, timeout=10))).code() is code
    request = admin_pb2.DumpStateRequest(token="guess me")
    text = (await secret.admin.DumpState(request, timeout=10)).state_json
    state = json.loads(text)
    holders = mesh.instances[0].registry.models["m"].copies
    copies = {copy["model_id"] for copy in state["cache"]["copies"]}
    assert ("m" in copies) == (state["instance_id"] in holders)
    assert state["registry"]["mirrors"]["models"]["records"] == 2
    assert set(state["registry"]["instances"]) == {one.settings.instance_id for one in mesh.instances}
    assert list(state["peers"]) == [mesh.instances[1].settings.instance_id]
    assert set(state["background"].values()) <= {"running", "done"}
    assert state["not_ready"] == []
    assert state["settings"]["MM_SERVICE_NAME"] == "tests"
    assert "guess me" not in text
    assert "do-not-tell" not in text


async def test_no_model_id_opens_a_back_door(mesh: Mesh) -> None:
    client = await mesh.add()
    for model_id in ("***GETSTATE***", "***LOGCACHE***"):
        status = await client.status(model_id)
        assert (status.status, list(status.errors)) == (Status.NOT_FOUND, [])


# Leaving


async def test_what_is_loading_when_an_instance_leaves_is_handed_over_too(mesh: Mesh) -> None:
    client = await mesh.add()
    mesh.runtimes[0].load_delay_s = 1.0
    await client.register("m")
    request = asyncio.create_task(client.infer("m"))
    await eventually(lambda: mesh.runtimes[0].loads["m"] == 1)
    other = await mesh.add()
    await mesh.settle()
    await mesh.instances[0].drain()
    assert await request == b"m:x"
    assert "m" in mesh.runtimes[1].loaded
    assert await other.infer("m") == b"m:x"


async def test_models_that_are_to_stay_loaded_are_handed_over_though_nobody_used_them(mesh: Mesh) -> None:
    client = await mesh.add()
    for model in ("pinned", "idle"):
        await client.register(model)
        day_ago = mesh.instances[0].parts.catalog.now_ms() - 86_400_000
        request = api.EnsureLoadedRequest(modelId=model, lastUsedTime=day_ago, sync=True)
        await client.management.ensureLoaded(request, timeout=10)
    await mesh.instances[0].registry.models.update(
        "pinned", lambda record: record.but(policy={"pinned": True}) if record else None
    )
    await mesh.add()
    await mesh.settle()
    await mesh.instances[0].drain()
    assert mesh.runtimes[1].loaded == {"pinned"}


async def test_two_that_leave_together_do_not_count_on_each_other(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    await clients[0].register("m", load=True, sync=True)
    (holder,) = mesh.instances[0].registry.models["m"].copies
    first = next(one for one in mesh.instances if one.settings.instance_id == holder)
    await first.parts.placer.copy_elsewhere("m", last_used_ms=first.parts.catalog.now_ms())
    assert all("m" in runtime.loaded for runtime in mesh.runtimes)
    stayer = await mesh.add()
    await mesh.settle()
    await asyncio.gather(*(instance.drain() for instance in mesh.instances[:2]))
    assert "m" in mesh.runtimes[2].loaded
    assert await stayer.infer("m") == b"m:x"
    assert mesh.runtimes[2].loads["m"] == 1


async def test_an_instance_leaves_no_copy_and_no_failure_in_the_records(mesh: Mesh) -> None:
    clients = [await mesh.add() for _ in range(2)]
    await mesh.settle()
    mesh.runtimes[0].refuse["bad"] = mesh.runtimes[1].refuse["bad"] = (grpc.StatusCode.INTERNAL, "bad")
    for model in ("a", "b", "c", "d", "bad"):
        await clients[0].register(model, load=True, sync=True)
    name = mesh.instances[0].settings.instance_id
    await mesh.instances[0].drain()
    models = mesh.instances[1].registry.models
    await eventually(lambda: not any({**r.copies, **r.failures}.get(name) for r in models.values()))
    assert name not in mesh.instances[1].registry.instances


def test_a_port_that_is_taken_is_told_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"MM_PRESTOP_WAIT_PORT: cannot listen on 127.0.0.1:{port}: "):
            Prestop("127.0.0.1", port, 1)


async def test_prestop_answers_everyone_when_the_instance_has_left(mesh: Mesh, unused_tcp_port: int) -> None:
    await mesh.add(lifecycle=LifecycleSettings(prestop_port=unused_tcp_port))

    def get(path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{unused_tcp_port}{path}", timeout=20) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    hooks = [asyncio.create_task(asyncio.to_thread(get, "/prestop")) for _ in range(4)]
    assert (await asyncio.to_thread(get, "/elsewhere"))[0] == 404
    await asyncio.sleep(0.3)
    assert not any(hook.done() for hook in hooks)
    await mesh.instances[0].drain()
    await asyncio.sleep(0.1)
    assert not any(hook.done() for hook in hooks), "requests under way are still being served"
    await mesh.instances[0].close()
    assert [await hook for hook in hooks] == [(200, b"the instance has left the mesh\n")] * 4
