"""MLServer, started with ``MLSERVER_LOAD_MODELS_AT_STARTUP=false``."""

from pathlib import Path

import grpc

from mesh.runtimes.adapters.layout import Layout
from mesh.runtimes.adapters.mlserver_layout import mlserver_directory, plan_mlserver
from mesh.runtimes.adapters.repository import RepositoryRuntime, ServerKind
from mesh.runtimes.adapters.request import ModelRequest


class MLServerRuntime(RepositoryRuntime):
    """Drives MLServer, whose repository is ``<root>/_mlserver_models``."""

    kind = ServerKind(
        "MLServer",
        "_mlserver_models",
        # Which of the two depends on the release.
        frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}),
        unloads_later=False,
    )

    def directory_name(self, model_id: str) -> str:
        """Is the id, encoded where it would not be the name of a directory."""
        return mlserver_directory(model_id)

    def plan(self, request: ModelRequest, directory: Path) -> Layout:
        """Looks at the model's files."""
        return plan_mlserver(request, directory)
