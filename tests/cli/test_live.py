from collections.abc import Iterator

import pytest

from tests.cli.messages import loaded_model
from tests.cli.scripted import ScriptedMesh, scripted_mesh
from tests.cli.terminal import Terminal


@pytest.fixture
def mesh() -> Iterator[ScriptedMesh]:
    with scripted_mesh() as served:
        served.add(loaded_model("first-model"))
        yield served


def test_top_shows_changes_and_ends_with_q(mesh: ScriptedMesh) -> None:
    terminal = Terminal("top", "--address", mesh.address, "--interval", "0.1")
    try:
        terminal.wait_for("first-model")
        mesh.add(loaded_model("second-model"))
        terminal.wait_for("second-model")
        terminal.press(b"q")
        assert terminal.ended() == 0
        assert terminal.attributes() == terminal.before
    finally:
        terminal.close()


@pytest.mark.parametrize("command", [["top", "--interval", "0.1"], ["models", "--watch"]])
def test_ctrl_c_ends_what_is_live(mesh: ScriptedMesh, command: list[str]) -> None:
    terminal = Terminal(*command, "--address", mesh.address)
    try:
        terminal.wait_for("first-model")
        terminal.process.send_signal(2)
        assert terminal.ended() == 0
        assert "Traceback" not in terminal.shown
        assert terminal.attributes() == terminal.before
    finally:
        terminal.close()
