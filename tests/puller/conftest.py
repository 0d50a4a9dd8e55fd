from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mesh.puller import Puller, PullerSettings


def names(directory: Path | str) -> list[str]:
    """What is in a directory."""
    return sorted(entry.name for entry in Path(directory).iterdir())


MakePuller = Callable[..., Puller]


@pytest.fixture
async def make_puller(tmp_path: Path) -> AsyncIterator[MakePuller]:
    """Makes pullers of ``tmp_path/models`` with storage configurations in ``tmp_path/storage``."""
    made: list[Puller] = []

    def make(**changes: object) -> Puller:
        settings: dict[str, object] = {
            "root": tmp_path / "models",
            "storage_config_dir": tmp_path / "storage",
            "pvc_mounts_dir": tmp_path / "pvc",
            "local_roots": (tmp_path / "local",),
            "retry_delay_s": 0.01,
        }
        puller = Puller(PullerSettings(**{**settings, **changes}))  # type: ignore[arg-type]
        made.append(puller)
        return puller

    (tmp_path / "models").mkdir()
    (tmp_path / "storage").mkdir()
    (tmp_path / "pvc").mkdir()
    (tmp_path / "local").mkdir()
    yield make
    for puller in made:
        await puller.close()
