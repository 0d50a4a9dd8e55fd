"""Rows of the dashboard of the mesh, a module each: a title, and panels with the width that each takes of 24."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana.panels import Panel


@dataclass(frozen=True, slots=True)
class Section:
    """A row.

    Attributes:
        panels: with the width of each.
        open: whether it is seen at once.
        height: of its panels, in steps of Grafana's grid.
    """

    title: str
    panels: Sequence[tuple[int, Panel]]
    open: bool = True
    height: int = 8
