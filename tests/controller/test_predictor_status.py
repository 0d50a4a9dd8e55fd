"""What users read of a predictor, from what the mesh answers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.controller.predictors import (
    Endpoints,
    NoPods,
    Status,
    Taken,
    conclude,
    conclude_invalid,
    inference_service_status,
    predictor_status,
    read_predictor,
    set_request,
    write_inference_service,
    write_predictor,
)
from mesh.controller.predictors.status import Failure, FailureReason, ModelState, Transition, from_vmodel
from mesh.protos.model_mesh_pb2 import ModelStatusInfo, VModelStatusInfo

NO_POD = "There are no running instances that meet the label requirements of type mt:x: [mt:x]"
NO_FORMAT = "There are no running instances that meet the label requirements of type _default: [_no_runtime]"
NO_SUCH_RUNTIME = (
    "There are no running instances that meet the label requirements of type rt:x: [_no_runtime]"
)
ENDPOINTS = Endpoints("grpc://modelmesh-serving.models:8033", "http://modelmesh-serving.models:8008")
PREDICTOR = read_predictor(
    {
        "metadata": {"name": "digits", "namespace": "models"},
        "spec": {"modelType": {"name": "sklearn"}, "storage": {"path": "digits.joblib", "key": "store"}},
    }
)


def model(status: str, *errors: str, copies: tuple[str, ...] = ()) -> ModelStatusInfo:
    infos = [
        ModelStatusInfo.ModelCopyInfo(
            location=f"pod-{i}", copyStatus=ModelStatusInfo.ModelStatus.Value(copy), time=1_700_000_000_500
        )
        for i, copy in enumerate(copies)
    ]
    return ModelStatusInfo(
        status=ModelStatusInfo.ModelStatus.Value(status), errors=errors, modelCopyInfos=infos
    )


def answer(
    status: str, active: ModelStatusInfo | None, target: ModelStatusInfo | None = None
) -> VModelStatusInfo:
    return VModelStatusInfo(
        status=VModelStatusInfo.VModelStatus.Value(status),
        activeModelId="a",
        targetModelId="a" if target is None else "b",
        activeModelStatus=active,
        targetModelStatus=target,
    )


@pytest.mark.parametrize(
    ("vmodel", "active", "target", "transition", "available", "reason"),
    [
        (answer("DEFINED", model("LOADING")), "Loading", "", "UpToDate", True, None),
        (answer("DEFINED", model("NOT_LOADED")), "Standby", "", "UpToDate", True, None),
        (
            answer("DEFINED", model("LOADED", copies=("LOADED", "LOADING_FAILED"))),
            "Loaded",
            "",
            "UpToDate",
            True,
            None,
        ),
        (
            answer("DEFINED", model("LOADING_FAILED", "boom")),
            "FailedToLoad",
            "",
            "UpToDate",
            False,
            "ModelLoadFailed",
        ),
        (
            answer("DEFINED", model("LOADING_FAILED", NO_POD)),
            "Loading",
            "",
            "UpToDate",
            False,
            "RuntimeUnhealthy",
        ),
        (
            answer("DEFINED", model("LOADING_FAILED", NO_FORMAT)),
            "FailedToLoad",
            "",
            "UpToDate",
            False,
            "NoSupportingRuntime",
        ),
        (
            answer("DEFINED", model("LOADING_FAILED", NO_SUCH_RUNTIME)),
            "FailedToLoad",
            "",
            "UpToDate",
            False,
            "RuntimeNotRecognized",
        ),
        (
            answer("TRANSITIONING", model("LOADED"), model("LOADING")),
            "Loaded",
            "Loading",
            "InProgress",
            True,
            None,
        ),
        (
            answer("TRANSITION_FAILED", model("LOADED"), model("LOADING")),
            "Loaded",
            "Loading",
            "InProgress",
            True,
            None,
        ),
        (
            answer("TRANSITION_FAILED", model("LOADED"), model("LOADING_FAILED", "bad path")),
            "Loaded",
            "FailedToLoad",
            "BlockedByFailedLoad",
            True,
            "ModelLoadFailed",
        ),
        # The model that serves goes on serving while its successor waits for a pod.
        (
            answer("TRANSITION_FAILED", model("LOADED"), model("LOADING_FAILED", NO_POD)),
            "Loaded",
            "Loading",
            "BlockedByFailedLoad",
            True,
            "RuntimeUnhealthy",
        ),
        (answer("DEFINED", model("UNKNOWN")), "Pending", "", "UpToDate", True, None),
        (answer("NOT_FOUND", None), "Pending", "", "", True, None),
    ],
)
def test_what_the_mesh_says_is_what_users_read(
    vmodel: VModelStatusInfo, active: str, target: str, transition: str, available: bool, reason: str | None
) -> None:
    status = from_vmodel(Status(), vmodel, 1_700_000_100)
    assert (status.active, status.target, status.transition) == (active, target, transition)
    assert status.available is available
    assert (status.failure and status.failure.reason) == reason


def test_copies_of_both_models_count_and_the_first_failed_one_says_where() -> None:
    vmodel = answer(
        "TRANSITION_FAILED",
        model("LOADED", copies=("LOADED", "LOADED")),
        model("LOADING_FAILED", "no such file", copies=("LOADING", "LOADING_FAILED", "LOADING_FAILED")),
    )
    status = from_vmodel(Status(), vmodel, 1_700_000_100)
    assert (status.total_copies, status.failed_copies) == (5, 2)
    assert status.failure == Failure(FailureReason.LOAD_FAILED, "no such file", "b", "pod-1", 1_700_000_000)


def test_copies_that_no_pod_could_take_are_none() -> None:
    status = from_vmodel(
        Status(), answer("DEFINED", model("LOADING_FAILED", NO_POD, copies=("LOADING_FAILED",))), 0
    )
    assert (status.total_copies, status.failed_copies) == (0, 0)


def test_a_failure_that_goes_on_keeps_its_time_for_a_while_so_that_writing_it_is_no_news() -> None:
    vmodel = answer("DEFINED", model("LOADING_FAILED", NO_POD))
    first = from_vmodel(Status(), vmodel, 100)
    assert from_vmodel(first, vmodel, 119) == first
    later = from_vmodel(first, vmodel, 121)
    assert later.failure is not None
    assert later.failure.time_s == 121


def test_waiting_is_told_until_the_load_that_was_tried_again_has_ended() -> None:
    waiting = from_vmodel(Status(), answer("DEFINED", model("LOADING_FAILED", NO_POD)), 100)
    again = from_vmodel(waiting, answer("DEFINED", model("LOADING")), 101)
    assert again.waits_for_runtime
    assert not from_vmodel(again, answer("DEFINED", model("LOADED")), 102).failure


def test_a_model_is_loaded_when_it_is_new_or_on_its_way_and_not_because_it_is_looked_at() -> None:
    def asked(status: Status) -> bool:
        return set_request(PREDICTOR, status, deleting=False).loadNow

    assert asked(Status())
    assert asked(Status(active=ModelState.FAILED))
    assert asked(Status(active=ModelState.LOADED, target=ModelState.LOADING))
    assert not asked(Status(active=ModelState.LOADED))
    assert not asked(Status(active=ModelState.STANDBY))
    assert not asked(Status(active=ModelState.LOADING))
    # Unless it was another model that was loading, and may have failed since.
    assert set_request(
        PREDICTOR, Status(active=ModelState.LOADING), deleting=False, set_before="other"
    ).loadNow
    assert not set_request(PREDICTOR, Status(), deleting=True).loadNow


def test_without_pods_nothing_known_of_the_models_is_lost() -> None:
    before = Status(available=True, active=ModelState.LOADED, total_copies=2)
    outcome = conclude(PREDICTOR, before, NoPods(), 0)
    assert outcome.again_after_s == 3
    assert (outcome.status.available, outcome.status.active, outcome.status.total_copies) == (
        True,
        ModelState.LOADED,
        2,
    )
    assert outcome.status.waits_for_runtime


@pytest.mark.parametrize(
    ("told", "again_after_s"),
    [
        (model("LOADED"), None),
        (model("LOADING"), 1),
        (model("LOADING_FAILED", "no such file"), None),
        (model("LOADING_FAILED", NO_POD), 3),
        (model("LOADING_FAILED", NO_FORMAT), 30),
        (model("LOADING_FAILED", NO_SUCH_RUNTIME), 30),
    ],
)
def test_what_may_change_without_an_event_is_looked_at_again(
    told: ModelStatusInfo, again_after_s: float | None
) -> None:
    assert conclude(PREDICTOR, Status(), answer("DEFINED", told), 0).again_after_s == again_after_s


def test_a_name_that_another_kind_has_is_refused_and_tried_again() -> None:
    outcome = conclude(PREDICTOR, Status(), Taken(), 0)
    assert outcome.status.failure is not None
    assert outcome.status.failure.reason is FailureReason.INVALID_SPEC
    assert "digits" in outcome.problem


def test_an_invalid_resource_keeps_what_serves_and_says_what_to_change() -> None:
    before = Status(available=True, active=ModelState.LOADED, total_copies=1)
    vmodel = answer("DEFINED", model("LOADED", copies=("LOADED", "LOADED")))
    outcome = conclude_invalid(before, vmodel, "Only one of spec.path and spec.storage.path can be specified")
    assert outcome.status.transition is Transition.INVALID_SPEC
    assert (outcome.status.available, outcome.status.total_copies) == (True, 2)
    assert outcome.happening is not None
    assert outcome.happening.type == "Warning"
    told_once = conclude_invalid(
        outcome.status, vmodel, "Only one of spec.path and spec.storage.path can be specified"
    )
    assert told_once.happening is None


_failures = st.none() | st.builds(
    Failure,
    reason=st.sampled_from(FailureReason),
    message=st.text(min_size=1),
    model_id=st.text(),
    location=st.text(),
    time_s=st.none() | st.integers(1, 2_000_000_000),
)
_statuses = st.builds(
    Status,
    available=st.booleans(),
    transition=st.sampled_from(Transition),
    active=st.sampled_from([state for state in ModelState if state]),
    target=st.sampled_from(ModelState),
    failure=_failures,
    total_copies=st.integers(0, 9),
    failed_copies=st.integers(0, 9),
)


@given(_statuses)
def test_what_is_written_is_read_again(status: Status) -> None:
    assert predictor_status({"status": write_predictor(status, ENDPOINTS)}) == status
    written = write_inference_service({}, status, ENDPOINTS, 5)
    assert inference_service_status({"status": written}) == status
    assert write_inference_service(written, status, ENDPOINTS, 9) == written


def test_what_others_wrote_into_the_status_stays() -> None:
    before: dict[str, Any] = {
        "address": {"url": "http://elsewhere"},
        "observedGeneration": 3,
        "components": {"transformer": {"url": "http://t"}, "predictor": {"url": "old"}},
        "conditions": [
            {"type": "TransformerReady", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ],
    }
    after = write_inference_service(
        before, Status(available=True, active=ModelState.LOADED), ENDPOINTS, 1_700_000_000
    )
    assert after["address"] == before["address"]
    assert after["observedGeneration"] == 3
    assert after["components"]["transformer"] == {"url": "http://t"}
    assert after["components"]["predictor"] == {
        "url": ENDPOINTS.grpc,
        "grpcUrl": ENDPOINTS.grpc,
        "restUrl": ENDPOINTS.rest,
    }
    times = {condition["type"]: condition["lastTransitionTime"] for condition in after["conditions"]}
    assert times == {
        "TransformerReady": "2026-01-01T00:00:00Z",
        "Ready": "2026-01-01T00:00:00Z",
        "PredictorReady": "2023-11-14T22:13:20Z",
    }
    gone = write_inference_service(after, Status(), ENDPOINTS, 1_700_000_001)
    assert "url" not in gone
    assert "predictor" not in gone["components"]
