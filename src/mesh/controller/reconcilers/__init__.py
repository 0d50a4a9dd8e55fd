"""Thin loops: what the pure halves decide is read from the cluster, and written to it and to the meshes."""

from mesh.controller.reconcilers.namespaces import NamespaceReconciler
from mesh.controller.reconcilers.predictors import PredictorKey, PredictorReconciler
from mesh.controller.reconcilers.runtimes import RuntimeReconciler
from mesh.controller.reconcilers.writing import Writer

__all__ = ["NamespaceReconciler", "PredictorKey", "PredictorReconciler", "RuntimeReconciler", "Writer"]
