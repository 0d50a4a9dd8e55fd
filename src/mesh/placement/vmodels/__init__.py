"""Pure decisions about vmodels: names that stand for a model, and for the next one while that is made ready."""

from mesh.placement.vmodels.audit import count_references, miscounted
from mesh.placement.vmodels.changes import CopyCount, SetTarget, delete, park, set_target, switch
from mesh.placement.vmodels.transition import (
    PATIENCE_MS,
    CopyRefused,
    LookAgain,
    MakeCopies,
    Park,
    Switch,
    TransitionStep,
    TransitionView,
    next_transition_step,
)
from mesh.placement.vmodels.values import (
    Attributes,
    Change,
    Referent,
    Referents,
    Refused,
    VModel,
    VModelRefused,
    changed,
)

__all__ = [
    "PATIENCE_MS",
    "Attributes",
    "Change",
    "CopyCount",
    "CopyRefused",
    "LookAgain",
    "MakeCopies",
    "Park",
    "Referent",
    "Referents",
    "Refused",
    "SetTarget",
    "Switch",
    "TransitionStep",
    "TransitionView",
    "VModel",
    "VModelRefused",
    "changed",
    "count_references",
    "delete",
    "miscounted",
    "next_transition_step",
    "park",
    "set_target",
    "switch",
]
