import importlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric

from mesh.payload import InvalidProcessor, Options, Payload, known_schemes, open_processor
from tests.payload.parts import options, request


class Kept:
    def __init__(self, uri: str, options: Options) -> None:
        self.uri, self.options, self.batches = uri, options, list[Sequence[Payload]]()

    async def process(self, batch: Sequence[Payload]) -> None:
        self.batches.append(batch)

    async def close(self, timeout_s: float) -> None:
        self.batches.clear()

    def collect(self) -> Iterable[Metric]:
        return ()


@pytest.fixture
def kept_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a distribution that adds the scheme ``kept``, and one that cannot be imported."""
    info = tmp_path / "kept-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kept\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[mesh.payload]\nkept = {__name__}:Kept\nbroken = no.such.module:thing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


@pytest.mark.usefixtures("kept_scheme")
async def test_a_package_adds_a_scheme() -> None:
    assert "kept" in known_schemes()
    given = options(size=3)
    processor = open_processor("KEPT://somewhere/else?x=1", given)
    assert isinstance(processor, Kept)
    assert processor.uri == "KEPT://somewhere/else?x=1"
    assert processor.options is given
    await processor.process([request()])
    assert [payload.model_id for batch in processor.batches for payload in batch] == ["m"]


@pytest.mark.usefixtures("kept_scheme")
def test_what_cannot_be_opened_is_told_with_what_could_be() -> None:
    with pytest.raises(InvalidProcessor, match=r"'ftp'; there are .*kept.*entry point"):
        open_processor("ftp://host/", options())
    with pytest.raises(InvalidProcessor, match="has no scheme"):
        open_processor("/host", options())
    with pytest.raises(InvalidProcessor, match=r"no\.such\.module:thing cannot be loaded"):
        open_processor("broken://x", options())


@pytest.mark.parametrize(
    ("uri", "module", "extra"),
    [
        ("parquet:///folder", "pyarrow", "payload-parquet"),
        ("kafka://host/topic", "aiokafka", "payload-kafka"),
        ("monitor:", "numpy", "payload"),
        ("cloudevents+http://host", "numpy", "payload"),
    ],
)
def test_a_library_that_is_missing_is_told_with_the_extra_that_brings_it(
    uri: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidProcessor, match=rf"needs {module}.* pip install 'model-mesh\[{extra}\]'"):
        open_processor(uri, options())
