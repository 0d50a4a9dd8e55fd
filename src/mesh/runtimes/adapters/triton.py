"""Triton Inference Server, started with ``--model-control-mode=explicit``."""

from pathlib import Path

import grpc

from mesh.runtimes.adapters.layout import Layout, plain_directory
from mesh.runtimes.adapters.repository import RepositoryRuntime, ServerKind
from mesh.runtimes.adapters.request import ModelRequest
from mesh.runtimes.adapters.triton_layout import plan_triton


class TritonRuntime(RepositoryRuntime):
    """Drives Triton, whose repository is ``<root>/_triton_models``."""

    kind = ServerKind("Triton", "_triton_models", frozenset({grpc.StatusCode.NOT_FOUND}), unloads_later=True)

    def directory_name(self, model_id: str) -> str:
        """Is the id itself, as Triton takes it for the model's name."""
        return plain_directory(model_id, self.kind.name)

    def plan(self, request: ModelRequest, directory: Path) -> Layout:
        """Looks at the model's files."""
        return plan_triton(request)
