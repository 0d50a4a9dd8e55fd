"""Predictors: from what users write to calls of the mesh, and from its answers to what users read.

Everything here is values in, values out. `read_predictor` and `read_inference_service` read resources into `Predictor`;
`set_request` makes the call; `conclude` says what follows from the answer; `write_predictor` and
`write_inference_service` make the status that the resource gets.
"""

from mesh.controller.predictors.model_id import model_id
from mesh.controller.predictors.model_info import info_of, type_of
from mesh.controller.predictors.predictor import S3, InvalidSpec, ModelType, Predictor, Source, Storage
from mesh.controller.predictors.reading import is_for_the_mesh, read_inference_service, read_predictor
from mesh.controller.predictors.reconcile import (
    Answer,
    Happening,
    NoPods,
    Outcome,
    Refused,
    Taken,
    conclude,
    conclude_invalid,
    set_request,
)
from mesh.controller.predictors.status import Failure, FailureReason, ModelState, Status, Transition
from mesh.controller.predictors.written import (
    Endpoints,
    inference_service_status,
    predictor_status,
    write_inference_service,
    write_predictor,
)

__all__ = [
    "S3",
    "Answer",
    "Endpoints",
    "Failure",
    "FailureReason",
    "Happening",
    "InvalidSpec",
    "ModelState",
    "ModelType",
    "NoPods",
    "Outcome",
    "Predictor",
    "Refused",
    "Source",
    "Status",
    "Storage",
    "Taken",
    "Transition",
    "conclude",
    "conclude_invalid",
    "inference_service_status",
    "info_of",
    "is_for_the_mesh",
    "model_id",
    "predictor_status",
    "read_inference_service",
    "read_predictor",
    "set_request",
    "type_of",
    "write_inference_service",
    "write_predictor",
]
