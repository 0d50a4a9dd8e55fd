"""What the mesh is told of a predictor's model."""

import json
from typing import Any

from mesh.controller.predictors.predictor import Predictor
from mesh.protos.model_mesh_pb2 import ModelInfo


def type_of(predictor: Predictor) -> str:
    """The type by which the mesh finds instances for a model.

    A predictor that names its runtime goes there, whatever that says of formats and protocols.
    """
    if predictor.runtime:
        return f"rt:{predictor.runtime}"
    kind = predictor.model_type
    model_type = f"mt:{kind.name}:{kind.version}" if kind.version else f"mt:{kind.name}"
    return f"{model_type}|pv:{predictor.protocol_version}" if predictor.protocol_version else model_type


def info_of(predictor: Predictor) -> ModelInfo:
    """Type, path and key of the model as pullers and adapters of ModelMesh read them.

    Members of the key that say nothing are left out. Without ``storage`` nothing is known of where the files are, and
    the load says so.
    """
    path = schema_path = storage_key = ""
    parameters: dict[str, str] = {}
    if (storage := predictor.storage) is not None:
        path = storage.path or predictor.path
        schema_path = storage.schema_path or predictor.schema_path or ""
        storage_key = storage.key or (storage.s3.secret_key if storage.s3 else "")
        parameters = dict(storage.parameters or {})
        if not parameters and storage.s3 and storage.s3.bucket:
            parameters = {"bucket": storage.s3.bucket}
    kind = predictor.model_type
    key: dict[str, Any] = {
        "storage_key": storage_key,
        "storage_params": dict(sorted(parameters.items())),
        "model_type": {"name": kind.name, "version": kind.version} if kind.version else {"name": kind.name},
        "schema_path": schema_path,
    }
    written = json.dumps({name: value for name, value in key.items() if value}, separators=(",", ":"))
    return ModelInfo(type=type_of(predictor), path=path, key=written)
