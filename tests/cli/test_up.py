"""Laptop mode from end to end, as a person meets it."""

import json
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.cli.examples import EXAMPLES, SAMPLES
from tests.cli.laptops import RunningLaptop, running_laptop
from tests.cli.terminal import Terminal
from tests.cli.test_plan import free_ports
from tests.servers.etcd import EtcdServer

MODELS = [example.model_id for example in EXAMPLES]


def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def state(state_with_examples: Path) -> Path:
    """Short enough for sockets, which paths of pytest are not always."""
    return state_with_examples


@pytest.fixture(scope="module")
def laptop(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLaptop]:
    arguments = ("--state", str(state), "--instances", "3")
    with running_laptop(tmp_path_factory.mktemp("laptop"), free_ports(3), *arguments) as running:
        running.wait_for("The mesh is up")
        yield running


def test_it_tells_what_to_do_next(laptop: RunningLaptop) -> None:
    output = laptop.output
    for number in range(3):
        assert f"127.0.0.1:{laptop.port + number}" in output
    assert "mesh infer digits" in output
    assert f"mesh top --address 127.0.0.1:{laptop.port}" in output
    assert f"{len(MODELS)} models" in output
    assert "\x1b" not in output


@pytest.mark.parametrize("instance", range(3))
def test_every_model_answers_rightly_from_every_instance(laptop: RunningLaptop, instance: int) -> None:
    for model_id in MODELS:
        for sample in range(SAMPLES if instance == 0 else 1):
            answer = laptop.ask("infer", model_id, "--sample", str(sample), instance=instance)
            assert answer["label"] == answer["truth"], model_id


def test_not_all_models_fit_and_the_mesh_says_so(laptop: RunningLaptop) -> None:
    for model_id in MODELS:
        laptop.ask("infer", model_id)
    loaded = laptop.ask("models", "--loaded")
    assert 0 < len(loaded["models"]) < len(MODELS) == loaded["registered"]
    assert len(laptop.ask("models")["models"]) == len(MODELS)
    instances = laptop.ask("status")["instances"]
    assert len(instances) == 3
    assert all(0 < one["used_bytes"] <= one["capacity_bytes"] for one in instances)
    kinds = {decision["kind"] for decision in laptop.ask("explain", "--limit", "200")["decisions"]}
    assert {"placement", "load", "eviction"} <= kinds


def test_status_and_explain_tell_where_a_model_is_and_why(laptop: RunningLaptop) -> None:
    laptop.ask("infer", "digits-forest", instance=1)
    (copy, *_) = laptop.ask("status", "digits-forest")["copies"]
    assert copy["instance_id"] in {f"laptop-{laptop.port + number}" for number in range(3)}
    assert copy["state"] == "loaded"
    assert copy["size_bytes"] > 1 << 20
    explanation = laptop.run("explain", "digits-forest").output
    assert f"on {copy['instance_id']}: loaded for" in explanation
    assert "because" in explanation
    placements = [
        one for one in laptop.ask("explain", "digits-forest")["decisions"] if one["kind"] == "placement"
    ]
    assert placements[0]["chosen"] == copy["instance_id"]
    assert len(placements[0]["candidates"]) == 3


def test_top_and_models_show_the_same_mesh(laptop: RunningLaptop) -> None:
    laptop.ask("infer", "wine-forest")
    frame = laptop.run("top", "--once", instance=2).output
    assert f"3 instances, {len(MODELS)} models" in frame
    assert "wine-forest" in frame
    listed = laptop.run("models", instance=1).output
    assert all(model_id in listed for model_id in MODELS)


def test_a_model_of_ones_own_is_registered_asked_and_removed(laptop: RunningLaptop, state: Path) -> None:
    path = state / "examples" / "wine-xgboost" / "model.json"
    assert laptop.run("register", "mine", "--type", "xgboost", "--path", str(path), "--load").exit_code == 0
    answer = laptop.ask("infer", "mine", instance=2)
    assert answer["cold"] is False
    assert answer["label"] == answer["truth"]
    assert laptop.run("unregister", "mine").exit_code == 0
    assert laptop.run("infer", "mine").exit_code == 1


def test_a_plain_list_of_numbers_is_enough(laptop: RunningLaptop) -> None:
    wine = [12.86, 1.35, 2.32, 18.0, 122.0, 1.51, 1.25, 0.21, 0.94, 4.1, 0.76, 1.29, 630.0]
    for model_id in ("wine-network", "wine-forest", "wine-xgboost"):
        answer = laptop.ask("infer", model_id, "--input", json.dumps([wine]))
        assert answer["outputs"], model_id


def test_a_model_that_cannot_be_loaded_says_why(laptop: RunningLaptop) -> None:
    laptop.run("register", "broken", "--type", "onnx", "--path", "/no/such/model.onnx")
    result = laptop.run("load", "broken")
    assert result.exit_code == 1
    assert "/no/such/model.onnx" in result.output
    assert "/no/such/model.onnx" in laptop.run("status", "broken").output
    laptop.run("unregister", "broken")


def test_a_model_server_that_dies_is_started_again_and_serves(laptop: RunningLaptop) -> None:
    laptop.ask("infer", "digits-svm")
    victim = laptop.model_servers()[0]
    victim.kill()
    laptop.wait_for("ended (signal SIGKILL); starting it again")
    eventually(lambda: len(laptop.model_servers()) == 3)
    for model_id in MODELS[:6]:
        answer = laptop.ask("infer", model_id)
        assert answer["label"] == answer["truth"]


def test_ctrl_c_leaves_nothing_behind(laptop: RunningLaptop, state: Path) -> None:
    servers = laptop.model_servers()
    assert len(servers) == 3
    assert laptop.end() == 0
    assert laptop.left_over() == []
    assert laptop.files_outside() == []
    assert "Traceback" not in laptop.output
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", laptop.port))
    run = state / "run" / str(laptop.port)
    assert {file.suffix for file in run.iterdir()} == {".log"}


def test_ctrl_c_while_it_trains_leaves_nothing_behind(tmp_path: Path) -> None:
    with running_laptop(
        tmp_path / "laptop", free_ports(2), "--state", str(tmp_path / "s"), "--instances", "2"
    ) as laptop:
        eventually(lambda: any("mesh.cli.examples" in child.cmdline() for child in laptop.note_processes()))
        assert laptop.end(signal.SIGTERM) == 0
        assert laptop.left_over() == []
        assert laptop.files_outside() == []
        assert "Traceback" not in laptop.output


def test_children_end_with_a_mesh_that_is_killed(state: Path, tmp_path: Path) -> None:
    with running_laptop(tmp_path, free_ports(1), "--state", str(state), "--instances", "1") as laptop:
        laptop.wait_for("The mesh is up")
        assert laptop.model_servers()
        laptop.process.kill()
        laptop.process.wait()
        eventually(lambda: laptop.left_over() == [])


@pytest.mark.parametrize("presses", [1, 2])
def test_a_model_server_that_hangs_does_not_keep_the_mesh_from_ending(
    state: Path, tmp_path: Path, presses: int
) -> None:
    with running_laptop(tmp_path, free_ports(1), "--state", str(state), "--instances", "1") as laptop:
        laptop.wait_for("The mesh is up")
        (server,) = laptop.model_servers()
        server.suspend()
        laptop.process.send_signal(signal.SIGINT)
        laptop.wait_for("Ending")
        if presses == 2:
            assert laptop.end() == 130
        assert laptop.process.wait(60) == (130 if presses == 2 else 0)
        eventually(lambda: laptop.left_over() == [])
        assert laptop.files_outside() == []


def test_a_registry_in_etcd_outlives_the_mesh(state: Path, tmp_path: Path, shared_etcd: EtcdServer) -> None:
    arguments = ("--state", str(state), "--instances", "2", "--etcd", shared_etcd.kv_store)
    port = free_ports(2)
    with running_laptop(tmp_path / "first", port, *arguments) as laptop:
        laptop.wait_for("The mesh is up")
        path = state / "examples" / "wine-xgboost" / "model.json"
        assert laptop.run("register", "mine", "--type", "xgboost", "--path", str(path)).exit_code == 0
        assert laptop.end() == 0
    with running_laptop(tmp_path / "second", port, *arguments) as laptop:
        laptop.wait_for("The mesh is up")
        assert "other attributes" not in laptop.output
        answer = laptop.ask("infer", "mine", instance=1)
        assert answer["label"] == answer["truth"]
        assert laptop.end() == 0
        assert laptop.left_over() == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("--etcd", "etcd:127.0.0.1:1"), ("--etcd", "nonsense"), ("--state", "/proc/nowhere")],
)
def test_what_is_not_there_is_told(state: Path, tmp_path: Path, option: str, value: str) -> None:
    arguments = ["--state", str(state), "--instances", "1", option, value]
    with running_laptop(tmp_path, free_ports(1), *arguments) as laptop:
        assert laptop.process.wait(60) == 1
        assert f"Error: {option} {value}" in laptop.output
        assert "Traceback" not in laptop.output
        assert laptop.left_over() == []


def test_a_port_in_use_is_told_at_once(state: Path, tmp_path: Path) -> None:
    port = free_ports(2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        with running_laptop(tmp_path, port, "--state", str(state), "--instances", "2") as laptop:
            assert laptop.process.wait(30) == 1
            assert f"port {port + 1} is in use" in laptop.output
            assert "--port" in laptop.output
            assert laptop.note_processes() == []


def test_ones_own_models_in_a_terminal(state: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(state / "examples" / "wine-network", models / "wine")
    port = free_ports(1)
    arguments = [
        "up",
        "--state",
        str(tmp_path / "s"),
        "--instances",
        "1",
        "--models",
        str(models),
        "--port",
        str(port),
    ]
    terminal = Terminal(*arguments)
    try:
        terminal.wait_for("Ctrl-C ends it all")
        assert "1 model" in terminal.shown
        assert "mesh infer wine" in terminal.shown
        terminal.press(b"\x03")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() in {0, 130}
    finally:
        terminal.close()


def test_a_runtime_that_does_not_start_is_told_with_its_log(state: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'import sys; sys.exit(\"no license for {{socket}}\")'"
    arguments = ["--state", str(state), "--instances", "2", "--runtime", command]
    with running_laptop(tmp_path, free_ports(2), *arguments) as laptop:
        assert laptop.process.wait(60) == 1
        assert "ended before it was ready (exit status 1)" in laptop.output
        assert "no license for" in laptop.output
        assert laptop.left_over() == []


def test_a_runtime_of_ones_own(state: Path, tmp_path: Path) -> None:
    custom = Path(__file__).parents[2] / "examples" / "custom_runtime.py"
    models = tmp_path / "models"
    for name, bias in (("north", 1), ("south", 5)):
        (models / name).mkdir(parents=True)
        (models / name / "weights.bin").write_text(json.dumps({"weights": [2, 3], "bias": bias}))
        (models / name / "mesh.json").write_text(json.dumps({"type": "linear", "path": "weights.bin"}))
    arguments = ["--state", str(state), "--instances", "2", "--models", str(models)]
    command = f"{sys.executable} {custom} --socket {{socket}} --capacity {{capacity}}"
    with running_laptop(tmp_path / "l", free_ports(2), *arguments, "--runtime", command) as laptop:
        laptop.wait_for("The mesh is up")
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [10, 100]}
        for name, expected in (("north", 321), ("south", 325)):
            answer = laptop.ask("infer", name, "--input", json.dumps({"inputs": [tensor]}), instance=1)
            assert answer["outputs"][0]["data"] == [expected]
        assert laptop.ask("status", "north")["copies"]
        assert laptop.end() == 0
        assert laptop.left_over() == []
