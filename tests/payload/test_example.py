"""The example of a package that adds a scheme, as a user would install it."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.payload import InvalidProcessor, known_schemes, open_processor
from tests.payload.parts import options, request, response

_EXAMPLE = Path(__file__).parents[2] / "examples" / "payload_digest"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a copy with pip, without what it depends on, which is there."""
    source, target = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(_EXAMPLE, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, source],
        check=True,
    )
    monkeypatch.syspath_prepend(str(target))


@pytest.mark.usefixtures("installed")
async def test_the_example_adds_its_scheme_and_works(tmp_path: Path) -> None:
    assert "digest" in known_schemes()
    path = tmp_path / "audit of models.txt"
    processor = open_processor(f"digest://{str(path).replace(' ', '%20')}", options(fields=["status"]))
    await processor.process([request(b"question"), response(None, status="NOT_FOUND")])
    await processor.process([request(memoryview(b"question"))])
    await processor.close(1)
    lines = [line.split() for line in path.read_text().splitlines()]
    question = hashlib.sha256(b"question").hexdigest()
    assert [line[1:] for line in lines] == [
        ["c1", "request", "m", question, "-"],
        ["c1", "response", "m", hashlib.sha256(b"").hexdigest(), "NOT_FOUND"],
        ["c1", "request", "m", question, "-"],
    ]
    with pytest.raises(InvalidProcessor, match="no directory"):
        open_processor("digest:///no/such/directory/x", options())
    with pytest.raises(InvalidProcessor, match="'secret'; there are status"):
        open_processor(f"digest://{path}", options(fields=["secret"]))
