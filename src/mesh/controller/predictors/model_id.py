"""The id of the model behind a predictor, which changes whenever its specification does."""

import hashlib
import json
from typing import Any

from mesh.controller.predictors.predictor import Predictor, Storage

#: Length of the hash in an id, hexadecimal digits.
_DIGITS = 10
#: Go's encoder writes these so, and the hash is over what it would write.
_ESCAPED = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def model_id(predictor: Predictor) -> str:
    """The id of the model that serves a predictor as it is written now.

    It is the id that KServe ModelMesh gives, so that a mesh taking over an existing registry reloads nothing: the
    resource's name and source with the first ten digits of the SHA-1 of the specification as compact JSON.
    """
    written = json.dumps(_specification(predictor), ensure_ascii=False, separators=(",", ":")).translate(
        _ESCAPED
    )
    digest = hashlib.sha1(written.encode(), usedforsecurity=False).hexdigest()
    return f"{predictor.name}__{predictor.source}-{digest[:_DIGITS]}"


def _specification(predictor: Predictor) -> dict[str, Any]:
    return _written(
        serviceAccountName=predictor.service_account_name,
        modelType=_written(name=predictor.model_type.name, version=predictor.model_type.version),
        path=predictor.path,
        schemaPath=predictor.schema_path,
        storage=None if predictor.storage is None else _storage(predictor.storage),
        gpu=predictor.gpu,
        runtime=None if predictor.runtime is None else {"name": predictor.runtime},
        protocolVersion=predictor.protocol_version,
    )


def _storage(storage: Storage) -> dict[str, Any]:
    return _written(
        path=storage.path,
        schemaPath=storage.schema_path,
        parameters=None if storage.parameters is None else dict(sorted(storage.parameters.items())),
        key=storage.key,
        s3=None
        if storage.s3 is None
        else _written(secretKey=storage.s3.secret_key, bucket=storage.s3.bucket),
    )


def _written(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
