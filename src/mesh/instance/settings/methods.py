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
    rpcs = config.get("rpcConfigs", {})
    if not isinstance(rpcs, dict):
        raise TypeError(f"rpcConfigs must be an object with an entry for each method, got {rpcs!r}")
    for method, rpc in rpcs.items():
        if not isinstance(rpc, dict):
            raise TypeError(f"the entry of {method} in rpcConfigs must be an object, got {rpc!r}")
        if unknown := rpc.keys() - {"idExtractionPath", "vModelId"}:
            raise ValueError(f"unknown property {min(unknown)!r} of {method}")
        path = rpc.get("idExtractionPath") or []
        if not isinstance(path, list) or not all(map(_is_field_number, path)):
            raise ValueError(
                f"idExtractionPath of {method} must be a list of protobuf field numbers, got {path}"
            )
    return config


def _is_field_number(value: object) -> bool:
    return type(value) is int and 0 < value < 2**29
