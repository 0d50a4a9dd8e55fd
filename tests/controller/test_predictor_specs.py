"""What users may write, and what they are told where it cannot be served."""

import json
from typing import Any

import pytest

from mesh.controller.predictors import (
    InvalidSpec,
    info_of,
    is_for_the_mesh,
    read_inference_service,
    read_predictor,
)

ANNOTATED = {"serving.kserve.io/deploymentMode": "ModelMesh"}


def isvc(predictor: dict[str, Any], **annotations: str) -> dict[str, Any]:
    named = {f"serving.kserve.io/{name}": value for name, value in annotations.items()}
    return {
        "metadata": {"name": "m", "namespace": "models", "annotations": ANNOTATED | named},
        "spec": {"predictor": predictor},
    }


def predictor(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "m", "namespace": "models"}, "spec": {"modelType": {"name": "onnx"}} | spec}


def test_only_annotated_services_are_the_meshs() -> None:
    assert is_for_the_mesh(isvc({}))
    assert not is_for_the_mesh({"metadata": {"name": "m", "namespace": "models"}})
    assert not is_for_the_mesh(
        {"metadata": {"annotations": {"serving.kserve.io/deploymentMode": "modelmesh"}}}
    )


@pytest.mark.parametrize(
    ("uri", "path", "parameters"),
    [
        ("pvc://claim/a/b", "a/b", {"type": "pvc", "name": "claim"}),
        ("s3://bucket/a/b", "a/b", {"type": "s3", "bucket": "bucket"}),
        ("gs://bucket/a", "a", {"type": "gcs", "bucket": "bucket"}),
        (
            "https://acc.blob.core.windows.net/box/a/b",
            "a/b",
            {"type": "azure", "container": "box", "account_name": "acc"},
        ),
        ("https://host:81/a%20b?raw=true", "a b", {"type": "http", "url": "https://host:81?raw=true"}),
        ("hf://org/model", "hf://org/model", {}),
    ],
)
def test_where_a_storage_uri_leads(uri: str, path: str, parameters: dict[str, str]) -> None:
    read = read_inference_service(isvc({"model": {"modelFormat": {"name": "onnx"}, "storageUri": uri}}))
    assert read.storage is not None
    assert (read.storage.path, read.storage.parameters) == (path, parameters)


def test_the_key_of_a_model_is_what_pullers_and_adapters_read() -> None:
    read = read_inference_service(
        isvc(
            {
                "model": {
                    "modelFormat": {"name": "sklearn", "version": "0"},
                    "storage": {"key": "k", "path": "p", "schemaPath": "s", "parameters": {"bucket": "b"}},
                    "protocolVersion": "grpc-v2",
                }
            }
        )
    )
    info = info_of(read)
    assert (info.type, info.path) == ("mt:sklearn:0|pv:grpc-v2", "p")
    assert json.loads(info.key) == {
        "storage_key": "k",
        "storage_params": {"bucket": "b"},
        "model_type": {"name": "sklearn", "version": "0"},
        "schema_path": "s",
    }


def test_a_framework_takes_its_runtime_key_and_schema_from_annotations() -> None:
    service = isvc(
        {"sklearn": {"storageUri": "s3://b/p"}}, servingRuntime="mine", secretKey="key", schemaPath="schema"
    )
    info = info_of(read_inference_service(service))
    assert info.type == "rt:mine"
    assert json.loads(info.key)["storage_key"] == "key"
    assert json.loads(info.key)["schema_path"] == "schema"


def test_the_old_form_of_a_predictor_and_one_without_storage() -> None:
    old = info_of(read_predictor(predictor(path="p", storage={"s3": {"secretKey": "k", "bucket": "b"}})))
    assert old.path == "p"
    assert json.loads(old.key) == {
        "storage_key": "k",
        "storage_params": {"bucket": "b"},
        "model_type": {"name": "onnx"},
    }
    assert not info_of(read_predictor(predictor(path="p"))).path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"path": "a", "storage": {"path": "b"}},
            "Only one of spec.path and spec.storage.path can be specified",
        ),
        (
            {"schemaPath": "a", "storage": {"schemaPath": "b"}},
            "Only one of spec.schemaPath and spec.storage.schemaPath can be specified",
        ),
        (
            {"storage": {"persistentVolumeClaim": {"claimName": "c"}}},
            "spec.storage.PersistentVolumeClaim is not supported",
        ),
        (
            {"storage": {"s3": {"secretKey": "k"}, "key": "k"}},
            "spec.storage.s3 cannot be specified with any other keys in spec.storage",
        ),
    ],
)
def test_predictors_that_contradict_themselves(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec, match=f"^{message}$"):
        read_predictor(predictor(**spec))


@pytest.mark.parametrize(
    ("service", "told"),
    [
        (isvc({}), "no model"),
        (isvc({"model": {"modelFormat": {"name": "x"}}, "sklearn": {}}), "both model and sklearn"),
        (
            isvc({"model": {"modelFormat": {"name": "x"}, "storageUri": "s3://b/p"}}, servingRuntime="r"),
            "cannot have both the model spec and the runtime annotation",
        ),
        (isvc({"model": {"storageUri": "s3://b/p"}}), "modelFormat.name is missing"),
        (isvc({"model": {"modelFormat": {"name": "x"}}}), "either the storageUri or the storage.path"),
        (
            isvc(
                {"model": {"modelFormat": {"name": "x"}, "storageUri": "s3://b/p", "storage": {"path": "p"}}}
            ),
            "both the storageUri and the storage.path",
        ),
        (isvc({"model": {"modelFormat": {"name": "x"}, "storageUri": "bucket/p"}}), "is no address"),
        (isvc({"model": {"modelFormat": {"name": "x"}, "storageUri": "s3:///p"}}), "does not say where"),
        (
            isvc({"model": {"modelFormat": {"name": "x"}, "storageUri": "https://a.blob.core.windows.net/"}}),
            "names no container",
        ),
    ],
)
def test_services_that_cannot_be_served_say_what_to_change(service: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidSpec, match=told):
        read_inference_service(service)


def test_annotations_set_the_policy_of_copies() -> None:
    service = isvc({"model": {"modelFormat": {"name": "x"}, "storageUri": "s3://b/p"}})
    service["metadata"]["annotations"] |= {
        "modelmesh.serving.kserve.io/min-copies": "2",
        "modelmesh.serving.kserve.io/max-copies": "4",
        "modelmesh.serving.kserve.io/pinned": "true",
        "modelmesh.serving.kserve.io/priority": "-3",
        "modelmesh.serving.kserve.io/idle-ttl": "12h",
        "modelmesh.serving.kserve.io/size": "1.5Gi",
    }
    policy = read_inference_service(service).policy
    assert (policy.min_copies, policy.max_copies, policy.pinned, policy.priority) == (2, 4, True, -3)
    assert (policy.idle_ttl_ms, policy.declared_size_bytes) == (43_200_000, 1_610_612_736)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("min-copies", "two", "whole number"),
        ("pinned", "yes", '"true" or "false"'),
        ("idle-ttl", "1 day", "duration"),
        ("size", "big", "quantity"),
        ("priority", "1000", "must be -100 to 100"),
    ],
)
def test_annotations_that_cannot_be_read(name: str, value: str, told: str) -> None:
    service = isvc({"model": {"modelFormat": {"name": "x"}, "storageUri": "s3://b/p"}})
    service["metadata"]["annotations"][f"modelmesh.serving.kserve.io/{name}"] = value
    with pytest.raises(InvalidSpec, match=told):
        read_inference_service(service)
