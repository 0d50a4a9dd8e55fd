"""What a user wants served, however it was written down: the common form of Predictors and InferenceServices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mesh.placement import CopyPolicy


class Source(StrEnum):
    """The kind of resource that a predictor comes from; the owner of its vmodel, as in KServe ModelMesh."""

    PREDICTOR = "ksp"
    INFERENCE_SERVICE = "isvc"


class InvalidSpec(ValueError):
    """A resource cannot be served as it is written. The message says what to change."""


@dataclass(frozen=True, slots=True)
class ModelType:
    """The format of a model, for example ``sklearn``, and the version of that where it matters."""

    name: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class S3:
    """The form in which Predictors named an S3 bucket before ``storage.key`` and ``storage.parameters``."""

    secret_key: str
    bucket: str | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the model's files are. None is what was not written; the id of the model tells it from ``""``.

    Attributes:
        path: within the storage.
        schema_path: of the file that describes inputs and outputs, within the storage.
        parameters: go before those of the stored configuration.
        key: entry of the storage Secret.
        s3: the old form of key and bucket.
    """

    path: str | None = None
    schema_path: str | None = None
    parameters: Mapping[str, str] | None = None
    key: str | None = None
    s3: S3 | None = None


@dataclass(frozen=True, slots=True)
class Predictor:
    """One model to be served under one name.

    Attributes:
        namespace: of the resource.
        name: of the resource; the id of its vmodel.
        source: kind of the resource.
        path: the old place of ``storage.path``.
        schema_path: the old place of ``storage.schema_path``.
        gpu: taken as written, part of the model's id; the mesh does not act on it.
        runtime: name of the only runtime that may serve it; None or "" for any that can.
        protocol_version: that the runtime has to speak.
        service_account_name: taken as written, part of the model's id; the mesh does not act on it.
        policy: how its copies are treated.
    """

    namespace: str
    name: str
    source: Source
    model_type: ModelType
    path: str = ""
    schema_path: str | None = None
    storage: Storage | None = None
    gpu: str | None = None
    runtime: str | None = None
    protocol_version: str | None = None
    service_account_name: str | None = None
    policy: CopyPolicy = field(default_factory=CopyPolicy)
