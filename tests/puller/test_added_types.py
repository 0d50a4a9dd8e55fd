"""Types of storage that other packages add."""

import sys
from pathlib import Path

import pytest

from mesh.puller import Code, PullFailure
from tests.puller.conftest import MakePuller

PACKAGE = """
from pathlib import Path

class Text:
    copied = True
    identity = ""
    def __init__(self, text):
        self.text = text
    @property
    def size_bytes(self):
        return len(self.text)
    async def fetch(self, target, advance):
        target.write_text(self.text)
        advance(len(self.text))

class Texts:
    def __init__(self, config, workshop):
        self.text = config.get("text", "")
    async def find(self, path):
        return Text(self.text + path)
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site"
    metadata = folder / "texts-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "mesh_test_texts.py").write_text(PACKAGE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: texts\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[mesh.storage]\ntexts = mesh_test_texts:Texts\nbroken = mesh_test_nothing:Texts\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "mesh_test_texts", raising=False)


@pytest.mark.usefixtures("added")
async def test_an_installed_package_adds_a_type(make_puller: MakePuller) -> None:
    pulled = await make_puller().pull("m", "x", '{"storage_params":{"type":"texts","text":"hello "}}')
    assert Path(pulled.path).read_text() == "hello x"
    pulled = await make_puller().pull("m", "texts://y", "")
    assert Path(pulled.path).read_text() == "y"


@pytest.mark.usefixtures("added")
async def test_one_that_cannot_be_imported_is_named(make_puller: MakePuller) -> None:
    with pytest.raises(PullFailure) as raised:
        await make_puller().pull("m", "broken://y", "")
    assert raised.value.code is Code.INTERNAL
    assert "mesh_test_nothing" in raised.value.message


@pytest.mark.usefixtures("added")
async def test_an_unknown_type_is_refused_with_the_known_ones(make_puller: MakePuller) -> None:
    with pytest.raises(PullFailure) as raised:
        await make_puller().pull("m", "x", '{"storage_params":{"type":"textz"}}')
    assert raised.value.code is Code.INVALID_ARGUMENT
    assert raised.value.message.endswith("s3, texts")
    assert "azure, broken, gcs" in raised.value.message
