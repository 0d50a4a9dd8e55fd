"""Which namespaces have a mesh."""

from collections.abc import Mapping
from typing import Any

LABEL = "modelmesh-enabled"


def is_enabled(namespace: Mapping[str, Any], *, of_controller: bool) -> bool:
    """Whether a namespace has a mesh, for a controller of the whole cluster.

    Args:
        namespace: as Kubernetes has it.
        of_controller: whether it is the controller's own, which has one unless it says otherwise.
    """
    if (namespace.get("status") or {}).get("phase") == "Terminating":
        return False
    written = (namespace["metadata"].get("labels") or {}).get(LABEL)
    return of_controller if written is None else written == "true"
