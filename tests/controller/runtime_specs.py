"""Runtimes as users write them."""

import copy
from typing import Any

from mesh.controller.runtimes import Runtime, read_runtime

TRITON: dict[str, Any] = {
    "multiModel": True,
    "supportedModelFormats": [
        {"name": "onnx", "version": "1", "autoSelect": True},
        {"name": "sklearn", "version": "0"},
    ],
    "protocolVersions": ["grpc-v2"],
    "grpcEndpoint": "port:8085",
    "grpcDataEndpoint": "port:8001",
    "containers": [
        {
            "name": "triton",
            "image": "registry:5000/tritonserver:23.04-py3",
            "resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}},
        }
    ],
    "builtInAdapter": {
        "serverType": "triton",
        "runtimeManagementPort": 8001,
        "memBufferBytes": 134217728,
        "modelLoadingTimeoutMillis": 90000,
    },
}
CUSTOM: dict[str, Any] = {
    "multiModel": True,
    "supportedModelFormats": [{"name": "ml", "autoSelect": True}],
    "grpcEndpoint": "unix:///sockets/mgmt.sock",
    "grpcDataEndpoint": "unix:/sockets/data.sock",
    "containers": [{"name": "server", "image": "server:1"}],
}


def resource(
    spec: dict[str, Any], name: str = "example", kind: str = "ServingRuntime", **annotations: str
) -> dict[str, Any]:
    """A runtime's resource; names of annotations have ``_`` for ``-`` and KServe's prefix."""
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": kind,
        "metadata": {
            "name": name,
            "uid": "1-2-3",
            "annotations": {
                f"serving.kserve.io/{key.replace('_', '-')}": value for key, value in annotations.items()
            },
        },
        "spec": copy.deepcopy(spec),
    }


def runtime(spec: dict[str, Any], name: str = "example", **changes: Any) -> Runtime:
    """A runtime of a spec with some members changed."""
    return read_runtime(resource(spec | changes, name))
