"""Which methods may be called, and where in their messages the model's id is."""

import json
from collections.abc import Mapping
from typing import Any


def dataplane_config(value: str) -> Mapping[str, Any]:
    """The data plane's method rules, as KServe ModelMesh has them in JSON."""
    config = json.loads(value)
    if not isinstance(config, dict):
        raise TypeError("must be a JSON object")
    if unknown := config.keys() - {"rpcConfigs", "allowOtherRpcs"}:
        raise ValueError(f"unknown property {min(unknown)!r}; known: rpcConfigs, allowOtherRpcs")
    for method, rpc in config.get("rpcConfigs", {}).items():
        if unknown := rpc.keys() - {"idExtractionPath", "vModelId"}:
            raise ValueError(f"unknown property {min(unknown)!r} of {method}")
        path = rpc.get("idExtractionPath") or []
        if not all(isinstance(number, int) and number > 0 for number in path):
            raise ValueError(
                f"idExtractionPath of {method} must be a list of protobuf field numbers, got {path}"
            )
    return config
