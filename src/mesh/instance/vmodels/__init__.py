"""Vmodels on one instance: names that stand for a model, and for the next one while that is made ready."""

from mesh.instance.vmodels.records import VModelRecords
from mesh.instance.vmodels.references import ReferenceAudit
from mesh.instance.vmodels.transitions import Transitions
from mesh.instance.vmodels.vmodels import VModels

__all__ = ["ReferenceAudit", "Transitions", "VModelRecords", "VModels"]
