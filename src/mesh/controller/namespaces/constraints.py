"""The ConfigMap by which the pods of a namespace know what may be loaded where, and where requests have their ids."""

import base64
import json
from collections.abc import Collection
from typing import Any

from mesh.controller.configuration import Configuration
from mesh.controller.runtimes import CONTROLLER, Runtime, type_constraints

NAME = "tc-config"
#: Requests that name their model in the message: Open Inference, TensorFlow Serving, TorchServe.
_DATAPLANE = {
    "rpcConfigs": {
        "inference.GRPCInferenceService/ModelInfer": {"idExtractionPath": [1], "vModelId": True},
        "inference.GRPCInferenceService/ModelMetadata": {"idExtractionPath": [1], "vModelId": True},
        "tensorflow.serving.PredictionService/Predict": {"idExtractionPath": [1, 1], "vModelId": True},
        "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions": {
            "idExtractionPath": [1],
            "vModelId": True,
        },
    },
    "allowOtherRpcs": True,
}


def constraints_map(
    runtimes: Collection[Runtime], configuration: Configuration, namespace: str
) -> dict[str, Any]:
    """The ConfigMap ``tc-config``, which the mesh follows while it runs.

    Args:
        runtimes: all that count in the namespace.
        configuration: of the controller.
        namespace: of the pods.
    """
    rules = type_constraints(runtimes, rest_proxy=configuration.rest_proxy.enabled)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": NAME,
            "namespace": namespace,
            "labels": {
                f"app.kubernetes.io/{name}": CONTROLLER for name in ("instance", "managed-by", "name")
            },
        },
        "binaryData": {"type_constraints": _encoded(rules), "dataplane_api_config": _encoded(_DATAPLANE)},
    }


def _encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()
