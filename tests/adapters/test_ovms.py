"""OpenVINO Model Server behind its adapter: the file of models, readings that serve many loads, and failures."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.runtimes import ModelInfo, RuntimeFailure
from mesh.runtimes.adapters import AdapterSettings, OvmsRuntime, OvmsSettings
from mesh.runtimes.adapters.ovms_batches import Batches, Ended, Outcome, Told
from tests.adapters.fake_ovms import FakeOvms


@pytest.fixture
async def ovms(tmp_path: Path) -> AsyncIterator[FakeOvms]:
    server = FakeOvms(tmp_path / "models" / "model_config_list.json")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def runtime(tmp_path: Path, ovms: FakeOvms) -> AsyncIterator[OvmsRuntime]:
    runtime = OvmsRuntime(
        OvmsSettings(
            AdapterSettings(1 << 30, root=tmp_path / "models", runtime_port=ovms.port, status_timeout_s=2.0),
            config_file=ovms.config_file,
            batch_wait_s=0.05,
            reload_timeout_s=2.0,
        )
    )
    await runtime.start()
    yield runtime
    await runtime.close()


def model(tmp_path: Path, name: str, content: bytes = b"weights") -> ModelInfo:
    file = tmp_path / "data" / f"{name}.onnx"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return ModelInfo(name, "onnx", str(file), '{"disk_size_bytes": 1000}')


async def test_a_model_is_listed_loaded_and_gone(
    tmp_path: Path, ovms: FakeOvms, runtime: OvmsRuntime
) -> None:
    loaded = await runtime.load(model(tmp_path, "wine"))
    assert loaded.size_bytes == 1250
    assert list(ovms.models) == ["wine"]
    assert (tmp_path / "models" / "_ovms_models" / "wine" / "1" / "model.onnx").read_bytes() == b"weights"
    await runtime.unload("wine")
    # It has let go of the model before its files are removed.
    assert ovms.models == {}
    assert not (tmp_path / "models" / "_ovms_models" / "wine").exists()
    await runtime.unload("never seen")


async def test_the_newest_version_of_a_directory_counts(
    tmp_path: Path, ovms: FakeOvms, runtime: OvmsRuntime
) -> None:
    for version in ("2", "010"):
        folder = tmp_path / "data" / "m" / version
        folder.mkdir(parents=True)
        (folder / "model.xml").write_bytes(version.encode())
    await runtime.load(ModelInfo("m", "openvino_ir", str(tmp_path / "data" / "m")))
    assert ovms.models["m"]["model_version_status"][0]["version"] == "010"


async def test_loads_that_come_together_go_together(
    tmp_path: Path, ovms: FakeOvms, runtime: OvmsRuntime
) -> None:
    ovms.readings.clear()
    await asyncio.gather(*(runtime.load(model(tmp_path, f"m{number}")) for number in range(20)))
    assert len(ovms.models) == 20
    assert len(ovms.readings) <= 3


async def test_one_that_fails_takes_no_other_with_it(
    tmp_path: Path, ovms: FakeOvms, runtime: OvmsRuntime
) -> None:
    results = await asyncio.gather(
        runtime.load(model(tmp_path, "good")),
        runtime.load(model(tmp_path, "bad", b"corrupt")),
        return_exceptions=True,
    )
    assert not isinstance(results[0], BaseException)
    assert isinstance(results[1], RuntimeFailure)
    assert results[1].code is grpc.StatusCode.FAILED_PRECONDITION
    assert "cannot parse" in results[1].message
    # Nor does it come back with the server's next start.
    async with asyncio.timeout(10):
        while "bad" in ovms.readings[-1]:
            await asyncio.sleep(0.02)
    assert ovms.readings[-1] == ["good"]


async def test_an_unload_during_the_load_ends_both(
    tmp_path: Path, ovms: FakeOvms, runtime: OvmsRuntime
) -> None:
    ovms.slow.clear()
    ovms.reading.clear()
    load = asyncio.create_task(runtime.load(model(tmp_path, "wine")))
    await asyncio.wait_for(ovms.reading.wait(), 10)
    unload = asyncio.create_task(runtime.unload("wine"))
    await asyncio.sleep(0)
    ovms.slow.set()
    with pytest.raises(RuntimeFailure) as raised:
        await load
    assert raised.value.code is grpc.StatusCode.ABORTED
    await unload
    assert ovms.models == {}


async def test_a_server_that_does_not_answer_fails_loads_and_then_serves_others(
    tmp_path: Path, ovms: FakeOvms, runtime: OvmsRuntime
) -> None:
    ovms.silent = True
    with pytest.raises(RuntimeFailure, match="Failed to update model configuration with OVMS") as raised:
        await runtime.load(model(tmp_path, "wine"))
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    ovms.silent = False
    await runtime.load(model(tmp_path, "beer"))
    assert list(ovms.models) == ["beer"]


async def test_a_start_empties_the_server(tmp_path: Path, ovms: FakeOvms, runtime: OvmsRuntime) -> None:
    await runtime.load(model(tmp_path, "wine"))
    await runtime.close()
    again = OvmsRuntime(
        OvmsSettings(
            AdapterSettings(1 << 30, root=tmp_path / "models", runtime_port=ovms.port),
            config_file=ovms.config_file,
        )
    )
    await again.start()
    assert ovms.models == {}
    await again.close()


@pytest.mark.parametrize("name", ["", "..", "a/b"])
async def test_a_name_that_is_no_directory_is_refused(runtime: OvmsRuntime, name: str) -> None:
    with pytest.raises(RuntimeFailure) as raised:
        await runtime.load(ModelInfo(name, "onnx", "/x"))
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("variable", "value"),
    [("BATCH_WAIT_TIME_MIN", "soon"), ("INTERNAL_SERVING_GRPC_PORT", "0"), ("RUNTIME_PORT", "x")],
)
def test_a_bad_setting_is_named(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        OvmsSettings.from_environment({"CONTAINER_MEM_REQ_BYTES": str(1 << 30), variable: value})


def test_settings_are_those_of_the_pod() -> None:
    settings = OvmsSettings.from_environment(
        {"CONTAINER_MEM_REQ_BYTES": str(1 << 30), "BATCH_WAIT_TIME_MIN": "1m0.5s", "OVMS_RELOAD_TIMEOUT": "0"}
    )
    assert settings.batch_wait_s == 60.5
    assert settings.reload_timeout_s == 30.0
    assert settings.common.runtime_port == 8888


NAMES = st.sampled_from("abc")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["load", "unload", "give_up"]), NAMES),
        st.tuples(st.sampled_from(["read", "fail"]), st.sets(NAMES)),
    ),
    max_size=40,
)


@given(STEPS)
def test_every_change_ends_once_and_the_file_lists_what_was_wanted_last(
    steps: list[tuple[str, object]],
) -> None:
    batches, wanted, ended = Batches(), dict[str, bool](), list[Ended | int]()
    asked: dict[int, str] = {}
    for ticket, (what, about) in enumerate(steps):
        match what, about:
            case "load", str(name):
                ended += batches.load(name, Path(name), ticket)
                asked[ticket], wanted[name] = name, True
            case "unload", str(name):
                ended += batches.unload(name, ticket)
                asked[ticket], wanted[name] = name, False
            case "give_up", str(name):
                last = max((one for one, whose in asked.items() if whose == name), default=None)
                if last is not None:
                    batches.give_up(name, last)
            case "read", set(broken):
                listed = batches.begin()
                told = {name: Told(name not in broken, "broken") for name in listed}
                ended += batches.end(told)
            case "fail", _:
                batches.begin()
                ended += batches.fail()
    batches.begin()
    ended += batches.end({name: Told(available=True) for name in batches.models})
    tickets = [one.ticket if isinstance(one, Ended) else one for one in ended]
    assert len(tickets) == len(set(tickets))
    assert set(tickets) <= set(asked)
    done = {
        one.ticket: asked[one.ticket]
        for one in ended
        if isinstance(one, Ended) and one.outcome is Outcome.DONE
    }
    for name in batches.models:
        # Nothing is listed that was not asked for last.
        assert wanted[name]
        assert name in done.values()
