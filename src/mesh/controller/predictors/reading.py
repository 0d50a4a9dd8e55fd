"""Reads predictors from the resources that users write: Predictors and InferenceServices."""

from collections.abc import Mapping
from typing import Any

from mesh.controller.predictors.policies import policy_of
from mesh.controller.predictors.predictor import S3, InvalidSpec, ModelType, Predictor, Source, Storage
from mesh.controller.predictors.storage_uri import locate

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
MODE = "ModelMesh"
RUNTIME_ANNOTATION = "serving.kserve.io/servingRuntime"
SECRET_KEY_ANNOTATION = "serving.kserve.io/secretKey"  # noqa: S105
SCHEMA_PATH_ANNOTATION = "serving.kserve.io/schemaPath"
#: Members of ``spec.predictor`` that name a format, in the order in which one is chosen where there are several.
FRAMEWORKS = ("xgboost", "lightgbm", "sklearn", "tensorflow", "onnx", "pytorch", "triton", "pmml")


def read_predictor(resource: Mapping[str, Any]) -> Predictor:
    """Reads a Predictor.

    Raises:
        InvalidSpec: it cannot be served; the first four messages are KServe ModelMesh's.
    """
    spec = resource["spec"]
    storage = spec.get("storage")
    if storage is not None:
        _check_storage(spec, storage)
    runtime = spec.get("runtime")
    return Predictor(
        **_names(resource),
        source=Source.PREDICTOR,
        model_type=_model_type(spec["modelType"]),
        path=spec.get("path", ""),
        schema_path=spec.get("schemaPath"),
        storage=None if storage is None else _storage(storage),
        gpu=spec.get("gpu"),
        runtime=None if runtime is None else runtime.get("name", ""),
        protocol_version=spec.get("protocolVersion"),
        service_account_name=spec.get("serviceAccountName"),
        policy=policy_of(_annotations(resource)),
    )


def is_for_the_mesh(inference_service: Mapping[str, Any]) -> bool:
    """Whether an InferenceService is annotated to be served by the mesh."""
    return _annotations(inference_service).get(MODE_ANNOTATION) == MODE


def read_inference_service(resource: Mapping[str, Any]) -> Predictor:
    """Reads an InferenceService of the mesh, in either of its forms.

    Raises:
        InvalidSpec: it cannot be served.
    """
    annotations = _annotations(resource)
    predictor = resource.get("spec", {}).get("predictor") or {}
    framework = next((name for name in FRAMEWORKS if predictor.get(name) is not None), None)
    model = predictor.get("model")
    runtime = annotations.get(RUNTIME_ANNOTATION)
    if model is not None:
        if framework is not None:
            raise InvalidSpec(f"spec.predictor has both model and {framework}: leave one of them")
        if runtime is not None:
            raise InvalidSpec(
                "the InferenceService cannot have both the model spec and the runtime annotation "
                f"{RUNTIME_ANNOTATION}: name the runtime in spec.predictor.model.runtime"
            )
        kind = _model_type(model.get("modelFormat") or {})
        if not kind.name:
            raise InvalidSpec("spec.predictor.model.modelFormat.name is missing")
        runtime = model.get("runtime")
        framework = "model"
    elif framework is not None:
        model = predictor[framework]
        kind = ModelType(framework)
    else:
        raise InvalidSpec(
            "spec.predictor has no model, and no framework known to the mesh (" + ", ".join(FRAMEWORKS) + ")"
        )
    return Predictor(
        **_names(resource),
        source=Source.INFERENCE_SERVICE,
        model_type=kind,
        storage=_located(model, annotations, f"spec.predictor.{framework}"),
        runtime=runtime,
        protocol_version=model.get("protocolVersion") or None,
        policy=policy_of(annotations),
    )


def _located(model: Mapping[str, Any], annotations: Mapping[str, str], where: str) -> Storage:
    storage = model.get("storage") or {}
    uri, path = model.get("storageUri"), storage.get("path")
    if uri is None and path is None:
        raise InvalidSpec(f"{where} must have either the storageUri or the storage.path")
    if uri is not None and path is not None:
        raise InvalidSpec(f"{where} cannot have both the storageUri and the storage.path")
    parameters = dict(storage.get("parameters") or {})
    if uri is not None:
        located = locate(uri)
        path = located.path
        parameters.update(located.parameters)
    return Storage(
        path=path,
        schema_path=storage.get("schemaPath", annotations.get(SCHEMA_PATH_ANNOTATION)),
        parameters=parameters,
        key=storage.get("key", annotations.get(SECRET_KEY_ANNOTATION)),
    )


def _check_storage(spec: Mapping[str, Any], storage: Mapping[str, Any]) -> None:
    if spec.get("path") and storage.get("path") is not None:
        raise InvalidSpec("Only one of spec.path and spec.storage.path can be specified")
    if spec.get("schemaPath") is not None and storage.get("schemaPath") is not None:
        raise InvalidSpec("Only one of spec.schemaPath and spec.storage.schemaPath can be specified")
    if storage.get("persistentVolumeClaim") is not None:
        raise InvalidSpec("spec.storage.PersistentVolumeClaim is not supported")
    if storage.get("s3") is not None and any(
        storage.get(name) is not None for name in ("path", "schemaPath", "parameters", "key")
    ):
        raise InvalidSpec("spec.storage.s3 cannot be specified with any other keys in spec.storage")


def _storage(storage: Mapping[str, Any]) -> Storage:
    s3 = storage.get("s3")
    return Storage(
        path=storage.get("path"),
        schema_path=storage.get("schemaPath"),
        parameters=storage.get("parameters"),
        key=storage.get("key"),
        s3=None if s3 is None else S3(s3["secretKey"], s3.get("bucket")),
    )


def _model_type(written: Mapping[str, Any]) -> ModelType:
    return ModelType(written.get("name", ""), written.get("version"))


def _annotations(resource: Mapping[str, Any]) -> Mapping[str, str]:
    return resource["metadata"].get("annotations") or {}


def _names(resource: Mapping[str, Any]) -> dict[str, str]:
    return {"namespace": resource["metadata"]["namespace"], "name": resource["metadata"]["name"]}
