"""The ids of models are those that KServe ModelMesh gave, so that a registry taken over reloads nothing."""

from typing import Any

import pytest

from mesh.controller.predictors import model_id, read_inference_service, read_predictor


def _isvc(model: dict[str, Any], name: str = "example") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "models",
            "annotations": {"serving.kserve.io/deploymentMode": "ModelMesh"},
        },
        "spec": {"predictor": {"model": model}},
    }


@pytest.mark.parametrize(
    ("model", "digits"),
    [
        (
            {
                "modelFormat": {"name": "sklearn"},
                "storage": {"key": "localMinIO", "path": "sklearn/mnist-svm.joblib"},
            },
            "6b2eb0b8bf",
        ),
        (
            {
                "modelFormat": {"name": "sklearn"},
                "storage": {"key": "localMinIO"},
                "storageUri": "s3://modelmesh-example-models/sklearn/mnist-svm.joblib",
            },
            "3642375d03",
        ),
        (
            {
                "modelFormat": {"name": "sklearn"},
                "storageUri": "pvc://my-models-pvc/sklearn/mnist-svm.joblib",
            },
            "3d2daa3370",
        ),
        (
            {
                "modelFormat": {"name": "custom-model"},
                "runtime": "my-custom-model-0.x",
                "storage": {
                    "path": "mnist-svm.joblib",
                    "parameters": {"type": "pvc", "name": "my-models-pvc"},
                },
            },
            "72fbffc584",
        ),
    ],
)
def test_ids_of_inference_services(model: dict[str, Any], digits: str) -> None:
    assert model_id(read_inference_service(_isvc(model))) == f"example__isvc-{digits}"


def test_id_of_a_predictor_in_the_old_form() -> None:
    predictor = read_predictor(
        {
            "metadata": {"name": "keras-mnist", "namespace": "models"},
            "spec": {
                "modelType": {"name": "keras"},
                "path": "keras/mnist.h5",
                "storage": {"s3": {"secretKey": "localMinIO"}},
            },
        }
    )
    assert model_id(predictor) == "keras-mnist__ksp-f3ccc51d50"
