"""How many copies a model has: more under load, fewer without, as many as its policy says, and evenly spread."""

from mesh.placement.copies.demand import Cause, Demands, DemandView, Overload, Sample
from mesh.placement.copies.figures import ScalingFigures
from mesh.placement.copies.growth import (
    AHEAD_MS,
    BUSY_COPY,
    CopiesNow,
    Growth,
    GrowthKind,
    for_load,
    for_minimum,
    for_recurring_use,
    not_as_busy,
)
from mesh.placement.copies.moves import Move, MoveKind, has_too_much, plan_moves
from mesh.placement.copies.surplus import CopyHere, Surplus, SurplusKind, find_surplus

__all__ = [
    "AHEAD_MS",
    "BUSY_COPY",
    "Cause",
    "CopiesNow",
    "CopyHere",
    "DemandView",
    "Demands",
    "Growth",
    "GrowthKind",
    "Move",
    "MoveKind",
    "Overload",
    "Sample",
    "ScalingFigures",
    "Surplus",
    "SurplusKind",
    "find_surplus",
    "for_load",
    "for_minimum",
    "for_recurring_use",
    "has_too_much",
    "not_as_busy",
    "plan_moves",
]
