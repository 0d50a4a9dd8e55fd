"""What is looked after again and again, beside requests: records and copies in step, the dead forgotten, memory used.

All of it is a safety net or a courtesy: a mesh whose events all arrive has nothing to repair.
"""

from mesh.placement.upkeep.janitor import (
    RecordedModel,
    Tidying,
    TidyingFigures,
    TidyingKind,
    tidy,
)
from mesh.placement.upkeep.preloading import Preload, Preloading, PreloadingFigures
from mesh.placement.upkeep.reaper import Absences
from mesh.placement.upkeep.second_home import deserves_second_home

__all__ = [
    "Absences",
    "Preload",
    "Preloading",
    "PreloadingFigures",
    "RecordedModel",
    "Tidying",
    "TidyingFigures",
    "TidyingKind",
    "deserves_second_home",
    "tidy",
]
