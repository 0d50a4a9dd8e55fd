import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mesh.cli import main
from mesh.cli.client import checked_address, model_header
from mesh.cli.main import COMMANDS
from mesh.protos import inference_pb2
from tests.cli.messages import MIB, eviction, failed_model, idle_model, loaded_model, placement
from tests.cli.scripted import ScriptedMesh, scripted_mesh


@pytest.fixture
def mesh() -> Iterator[ScriptedMesh]:
    with scripted_mesh() as served:
        served.add(loaded_model(), idle_model(), failed_model())
        served.decisions = [eviction(), placement()]
        yield served


def run(mesh: ScriptedMesh, *arguments: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, [*arguments, "--address", mesh.address], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def succeed(mesh: ScriptedMesh, *arguments: str, stdin: str | None = None) -> str:
    result = run(mesh, *arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.output


def test_help_lists_every_command_without_loading_what_they_need() -> None:
    code = "import sys; from mesh.cli import main; main(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", finished.stdout, re.MULTILINE)
    loaded = finished.stdout.splitlines()[-1]
    for heavy in ("'grpc'", "'rich'", "'mesh.instance'", "'google.protobuf'", "'asyncio'"):
        assert heavy not in loaded


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"runtime"}))
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_runtime_passes_its_options_on() -> None:
    output = CliRunner().invoke(main, ["runtime", "--help"]).output
    assert "Usage: mesh runtime" in output
    assert "--capacity" in output
    assert CliRunner().invoke(main, ["runtime", "--capacity", "much"]).exit_code == 2


def test_serve_without_a_name_says_which_variable_is_missing() -> None:
    result = CliRunner().invoke(main, ["serve"], env={"MM_SERVICE_NAME": None, "TAS_SERVICE_NAME": None})
    assert result.exit_code == 1
    assert "MM_SERVICE_NAME" in result.output


def test_serve_help_lists_every_setting() -> None:
    from mesh.instance import describe

    output = CliRunner().invoke(main, ["serve", "--help"]).output
    for setting in describe():
        assert setting.name.split(" or ")[0] in output


def test_models_lists_all_pages(mesh: ScriptedMesh) -> None:
    mesh.page = 1
    output = succeed(mesh, "models")
    assert [line.split()[0] for line in output.splitlines()] == ["MODEL", "broken", "digits", "wine"]


def test_models_can_be_narrowed(mesh: ScriptedMesh) -> None:
    assert [
        one["model_id"] for one in json.loads(succeed(mesh, "models", "--json", "--loaded"))["models"]
    ] == ["digits"]
    assert [
        one["model_id"] for one in json.loads(succeed(mesh, "models", "--json", "--prefix", "w"))["models"]
    ] == ["wine"]
    cut = json.loads(succeed(mesh, "models", "--json", "--limit", "2"))
    assert (len(cut["models"]), cut["more"], cut["registered"]) == (2, True, 3)


def test_json_of_a_model_has_stable_names(mesh: ScriptedMesh) -> None:
    model = json.loads(succeed(mesh, "status", "digits", "--json"))
    assert set(model) == {
        "model_id",
        "type",
        "path",
        "last_used_ms",
        "references",
        "policy",
        "copies",
        "failures",
    }
    assert model["copies"][0]["state"] == "loaded"
    assert model["copies"][0]["size_bytes"] == 9 * MIB
    assert (
        json.loads(succeed(mesh, "status", "broken", "--json"))["failures"][0]["message"] == "older trouble"
    )


def test_status_of_the_mesh(mesh: ScriptedMesh) -> None:
    assert "laptop-2" in succeed(mesh, "status")
    reply = json.loads(succeed(mesh, "status", "--json"))
    assert (reply["leader"], reply["self"], len(reply["instances"])) == ("laptop-2", "laptop-1", 3)


def test_status_of_an_unknown_model_says_what_to_do(mesh: ScriptedMesh) -> None:
    result = run(mesh, "status", "nothing")
    assert result.exit_code == 1
    assert "no model 'nothing' is registered" in result.output
    assert "mesh models" in result.output


def test_explain(mesh: ScriptedMesh) -> None:
    assert "because has most free memory" in succeed(mesh, "explain", "digits")
    assert "digits" in succeed(mesh, "explain")
    decisions = json.loads(succeed(mesh, "explain", "digits", "--json"))["decisions"]
    assert decisions[0]["candidates"][0] == {
        "instance_id": "laptop-2",
        "refused": "shutting down",
        "score": "",
        "rank": 0,
    }
    assert run(mesh, "explain", "nothing").exit_code == 1


def test_top_prints_one_frame(mesh: ScriptedMesh) -> None:
    output = succeed(mesh, "top", "--once")
    assert "3 instances" in output
    assert "digits" in output
    assert run(mesh, "top").exit_code == 2


def test_registering_and_loading(mesh: ScriptedMesh) -> None:
    assert "new is registered: not loaded" in succeed(
        mesh, "register", "new", "--type", "onnx", "--path", "/m/new"
    )
    assert mesh.models["new"].path == "/m/new"
    assert "new is registered: loaded" in succeed(mesh, "register", "new", "--type", "onnx", "--load")
    assert (mesh.seen[-1].loadNow, mesh.seen[-1].sync) == (True, True)
    assert json.loads(succeed(mesh, "load", "new", "--json"))["status"] == "LOADED"
    succeed(mesh, "unregister", "new")
    assert "new" not in mesh.models
    assert run(mesh, "load", "new").exit_code == 1


def test_a_policy_is_set_in_the_parts_that_are_named(mesh: ScriptedMesh) -> None:
    assert succeed(mesh, "policy", "digits") == "digits: as the mesh thinks fit\n"
    told = succeed(mesh, "policy", "digits", "--min-copies", "2", "--idle-ttl", "90", "--size", "1.5")
    assert told == "digits: at least 2 copies, unloaded when idle for 90 s, 1.5 MiB a copy\n"
    request = mesh.seen[-1]
    assert (request.policy.idle_ttl_ms, request.policy.declared_size_bytes) == (90_000, 3 * MIB // 2)
    assert not request.policy.HasField("pinned")
    told = succeed(mesh, "policy", "digits", "--pin", "--min-copies", "0")
    assert told == "digits: pinned, unloaded when idle for 90 s, 1.5 MiB a copy\n"
    assert "policy     pinned" in succeed(mesh, "status", "digits")
    shown = json.loads(succeed(mesh, "policy", "digits", "--reset", "--priority", "-3", "--json"))
    assert shown == {
        "model_id": "digits",
        "min_copies": 0,
        "max_copies": 0,
        "pinned": False,
        "priority": -3,
        "idle_ttl_ms": 0,
        "declared_size_bytes": 0,
    }
    assert "nobody" in run(mesh, "policy", "nobody", "--pin").output
    assert run(mesh, "policy", "digits", "--min-copies", "-1").exit_code == 2


def test_a_failed_load_is_an_error_with_its_reason(mesh: ScriptedMesh) -> None:
    mesh.load_errors = ["no such file: /m/new"]
    result = run(mesh, "load", "wine")
    assert result.exit_code == 1
    assert "wine could not be loaded: no such file: /m/new" in result.output


def test_a_refused_registration_says_why(mesh: ScriptedMesh) -> None:
    mesh.exists = True
    result = run(mesh, "register", "digits", "--type", "onnx")
    assert result.exit_code == 1
    assert "ALREADY_EXISTS: Model already exists with different attribute values" in result.output


def scores(*values: float) -> inference_pb2.ModelInferResponse:
    response = inference_pb2.ModelInferResponse()
    response.outputs.add(
        name="scores", datatype="FP32", shape=[1, len(values)]
    ).contents.fp32_contents.extend(values)
    return response


def test_infer_with_a_given_input(mesh: ScriptedMesh, tmp_path: Path) -> None:
    mesh.answer = scores(0.25, 0.75)
    assert "scores FP32[1, 2]: 0.25, 0.75" in succeed(mesh, "infer", "wine", "--input", "[[1, 2]]")
    metadata, request = mesh.seen[-1]
    assert metadata == {"mm-model-id": "wine"}
    assert list(request.inputs[0].contents.fp32_contents) == [1, 2]
    (tmp_path / "input.json").write_text("[3]")
    assert json.loads(succeed(mesh, "infer", "wine", "--input", str(tmp_path / "input.json"), "--json"))[
        "outputs"
    ][0]["data"] == [0.25, 0.75]
    succeed(mesh, "infer", "alias", "--vmodel", "--input", "-", stdin="[4]")
    metadata, request = mesh.seen[-1]
    assert metadata == {"mm-vmodel-id": "alias"}
    assert list(request.inputs[0].contents.fp32_contents) == [4]


def test_a_list_becomes_the_tensor_that_the_model_takes(mesh: ScriptedMesh) -> None:
    mesh.takes = [
        inference_pb2.ModelMetadataResponse.TensorMetadata(name="X", datatype="INT64", shape=[-1, 2])
    ]
    succeed(mesh, "infer", "wine", "--input", "[[1, 2]]")
    (tensor,) = mesh.seen[-1][1].inputs
    assert (tensor.name, list(tensor.contents.int64_contents)) == ("X", [1, 2])


def test_infer_asks_the_sample_beside_the_model_and_reads_the_answer(
    mesh: ScriptedMesh, tmp_path: Path
) -> None:
    sample = {"truth": "yes", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [5]}]}
    (tmp_path / "sample.json").write_text(
        json.dumps({"question": "Is it?", "labels": ["no", "yes"], "samples": [sample]})
    )
    mesh.models["wine"].path = str(tmp_path / "model.onnx")
    mesh.answer = scores(0.25, 0.75)
    output = succeed(mesh, "infer", "wine", "--repeat", "2")
    assert "Is it?\nwine says: yes  (true label: yes)" in output
    assert output.count("cold") == output.count("warm") == 1
    answer = json.loads(succeed(mesh, "infer", "wine", "--json"))
    assert (answer["label"], answer["truth"], answer["cold"]) == ("yes", "yes", True)
    result = run(mesh, "infer", "wine", "--sample", "3")
    assert "samples 0 to 0, there is no 3" in result.output
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wine"], "no sample.json beside /models/wine: give the input"),
        (["nothing", "--input", "[1]"], "no model 'nothing' is registered"),
        (["wine", "--input", "[1"], "--input is not JSON"),
        (["wine", "--input", "/no/such/file"], "--input: .*No such file"),
        (["wine", "--input", "{}"], "must be a list of numbers"),
    ],
)
def test_infer_says_what_is_wrong(mesh: ScriptedMesh, arguments: list[str], message: str) -> None:
    result = run(mesh, "infer", *arguments)
    assert result.exit_code == 1
    assert re.search(message, result.output)


def test_nothing_listens_there() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        for command in (["models"], ["status", "m"], ["top", "--once"], ["load", "m"]):
            result = CliRunner().invoke(main, [*command, "--address", address])
            assert result.exit_code == 1
            assert f"nothing answers at {address}: start a mesh with `mesh up`" in result.output


def test_the_address_comes_from_the_environment(mesh: ScriptedMesh) -> None:
    result = CliRunner().invoke(main, ["status"], env={"MESH_ADDRESS": mesh.address})
    assert result.exit_code == 0


def test_addresses() -> None:
    assert checked_address("8034") == checked_address(":8034") == "127.0.0.1:8034"
    assert checked_address("[::1]:80") == "[::1]:80"
    assert checked_address("unix:/run/x.sock") == "unix:/run/x.sock"
    for wrong in ("", "host", "host:port", "host:0", "host:70000", "http://host:80"):
        with pytest.raises(click.BadParameter, match="write host:port"):
            checked_address(wrong)


def test_ids_that_are_no_ascii_go_into_the_binary_header() -> None:
    assert model_header("a b") == ("mm-model-id", "a b")
    assert model_header("modèle") == ("mm-model-id-bin", "modèle".encode())
    assert model_header(" a", vmodel=True) == ("mm-vmodel-id-bin", b" a")


def test_dump_prints_the_state_to_those_who_know_the_token(
    mesh: ScriptedMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = succeed(mesh, "dump", "--token", "open sesame")
    assert json.loads(shown) == {"address": "here", "name": "jürgen"}
    monkeypatch.setenv("MESH_DUMP_TOKEN", "open sesame")
    assert succeed(mesh, "dump") == shown
    refused = run(mesh, "dump", "--token", "open")
    assert refused.exit_code == 1
    assert "UNAUTHENTICATED: not the token" in refused.output
