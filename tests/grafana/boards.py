"""The committed dashboards as Grafana reads them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "grafana" / "dashboards"
#: A variable of Grafana; ``$1`` is a group of a regular expression in PromQL.
_VARIABLE = re.compile(r"\$\{?([a-zA-Z_]\w*)(?::\w+)?\}?")


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        row: title of the row that it is in.
        model: as the JSON has it.
    """

    row: str
    model: Mapping[str, Any]

    @property
    def title(self) -> str:
        return str(self.model["title"])

    @property
    def queries(self) -> list[str]:
        return [target["expr"] for target in self.model["targets"]]

    @property
    def unit(self) -> str:
        return str(self.model["fieldConfig"]["defaults"].get("unit", ""))


def load(name: str) -> dict[str, Any]:
    """A dashboard by the name of its file, without its ending."""
    board: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return board


def panels(board: Mapping[str, Any]) -> Iterator[Panel]:
    """Those of all rows, collapsed or not, in order."""
    row = ""
    for model in board["panels"]:
        if model["type"] == "row":
            row = model["title"]
            for inner in model["panels"]:
                yield Panel(row, inner)
        else:
            yield Panel(row, model)


def interpolate(expression: str, values: Mapping[str, str]) -> str:
    """The expression as Grafana sends it.

    Raises:
        KeyError: The dashboard has no such variable.
    """
    return _VARIABLE.sub(lambda found: values[found[1]], expression)
