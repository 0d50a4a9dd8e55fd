"""Writes the dashboards: ``python -m grafana``; ``--check`` tells whether they are what the code makes instead."""

import sys
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import mesh, model, modelmesh

FOLDER = Path(__file__).with_name("dashboards")


def dashboards() -> Mapping[str, str]:
    """The JSON of each dashboard, by the name of its file."""
    return {
        f"{module.__name__.rpartition('.')[2]}.json": JSONEncoder(sort_keys=True, indent=2).encode(
            module.dashboard().build()
        )
        + "\n"
        for module in (mesh, model, modelmesh)
    }


def main() -> int:
    """Returns: the exit status."""
    made = dashboards()
    strays = [path for path in FOLDER.glob("*.json") if path.name not in made]
    stale = [name for name, text in made.items() if not _is(FOLDER / name, text)]
    if "--check" in sys.argv[1:]:
        for path in [*(FOLDER / name for name in stale), *strays]:
            print(f"{path.relative_to(Path.cwd())} is not what the code makes: run python -m grafana")
        return 1 if stale or strays else 0
    FOLDER.mkdir(exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(made[name], encoding="utf-8")
    for path in strays:
        path.unlink()
    return 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


sys.exit(main())
