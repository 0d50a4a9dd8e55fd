"""What the commands show: pure functions from a mesh's answers to renderables of rich.

None of them reads a clock; the time by which ages are reckoned is an argument, in epoch milliseconds.
"""

from mesh.cli.views.decisions import decision_line, explanation
from mesh.cli.views.instances import instances_table, memory_bar, mesh_status
from mesh.cli.views.models import model_state, model_status, models_table
from mesh.cli.views.payloads import processors_table
from mesh.cli.views.top import Snapshot, top_frame
from mesh.cli.views.vmodels import comparison, vmodel_status, vmodels_table

__all__ = [
    "Snapshot",
    "comparison",
    "decision_line",
    "explanation",
    "instances_table",
    "memory_bar",
    "mesh_status",
    "model_state",
    "model_status",
    "models_table",
    "processors_table",
    "top_frame",
    "vmodel_status",
    "vmodels_table",
]
