"""Vmodels on one instance: names that stand for a model, and for the next one while that is made ready."""

from mesh.instance.vmodels.parts import VModelParts, assemble_vmodels
from mesh.instance.vmodels.requests import VModelRequests
from mesh.instance.vmodels.service import SERVICE
from mesh.instance.vmodels.vmodels import VModels

__all__ = ["SERVICE", "VModelParts", "VModelRequests", "VModels", "assemble_vmodels"]
