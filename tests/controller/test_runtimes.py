"""What runtimes can serve, when they are refused, and how many pods they get."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.controller.runtimes import (
    InvalidAutoscaling,
    InvalidRuntime,
    Live,
    check_runtime,
    claims_of_storage,
    effective,
    labels_of,
    mounted_claims,
    plan_scale,
    read_autoscaling,
    serves_type,
    type_constraints,
)
from mesh.controller.webhook import review
from mesh.placement import TypeConstraints
from tests.controller.runtime_specs import CUSTOM, TRITON, resource, runtime

SERVERS = ("triton", "mlserver", "ovms", "torchserve")


def test_the_labels_of_a_runtime() -> None:
    formats = [
        {"name": "sklearn", "version": "0", "autoSelect": True},
        {"name": "xgboost", "version": "1", "autoSelect": True},
        {"name": "lightgbm", "version": "3", "autoSelect": True},
        {"name": "mllib", "version": "3"},
    ]
    mlserver = runtime(TRITON, "mlserver-1.x", supportedModelFormats=formats)
    assert ",".join(sorted(labels_of(mlserver, rest_proxy=True))) == (
        "mt:lightgbm,mt:lightgbm:3,mt:sklearn,mt:sklearn:0,mt:xgboost,mt:xgboost:1,pv:grpc-v2,pv:v2,rt:mlserver-1.x"
    )
    assert serves_type(mlserver, "mt:sklearn:0|pv:grpc-v2", rest_proxy=False)
    assert not serves_type(mlserver, "mt:sklearn|pv:v2", rest_proxy=False)
    assert not serves_type(mlserver, "mt:mllib", rest_proxy=False)
    assert serves_type(mlserver, "rt:mlserver-1.x", rest_proxy=False)


def test_the_constraints_of_a_runtime_are_those_that_modelmesh_writes() -> None:
    tensorflow = runtime(
        CUSTOM,
        "tf-serving-runtime",
        supportedModelFormats=[
            {"name": "tensorflow", "version": "1.10", "autoSelect": True},
            {"name": "tensorflow", "version": "2"},
        ],
        protocolVersions=["v1", "v2"],
    )
    rules = type_constraints([tensorflow], rest_proxy=False)
    assert rules == {
        "_default": {"required": ["_no_runtime"]},
        "mt:tensorflow": {"required": ["mt:tensorflow"]},
        "mt:tensorflow:1.10": {"required": ["mt:tensorflow:1.10"]},
        "mt:tensorflow:1.10|pv:v1": {"required": ["mt:tensorflow:1.10", "pv:v1"]},
        "mt:tensorflow:1.10|pv:v2": {"required": ["mt:tensorflow:1.10", "pv:v2"]},
        "mt:tensorflow|pv:v1": {"required": ["mt:tensorflow", "pv:v1"]},
        "mt:tensorflow|pv:v2": {"required": ["mt:tensorflow", "pv:v2"]},
        "rt:tf-serving-runtime": {"required": ["rt:tf-serving-runtime"]},
    }
    assert list(rules) == sorted(rules)


def test_of_runtimes_that_serve_a_format_the_one_of_highest_priority_is_preferred() -> None:
    def with_priority(priority: int) -> dict[str, Any]:
        return {"supportedModelFormats": [{"name": "onnx", "autoSelect": True, "priority": priority}]}

    runtimes = [runtime(TRITON, "slow", **with_priority(1)), runtime(TRITON, "fast", **with_priority(2))]
    rules = type_constraints(runtimes, rest_proxy=False)
    assert rules["mt:onnx"] == {"required": ["mt:onnx"], "preferred": ["rt:fast"]}
    assert "preferred" not in rules["rt:slow"]
    assert TypeConstraints.parse(json.dumps(rules))


def test_a_namespaces_runtime_stands_for_the_clusters_also_where_it_is_disabled() -> None:
    of_cluster = [runtime(TRITON, "a"), runtime(TRITON, "b")]
    counting = effective([runtime(TRITON, "a", disabled=True)], of_cluster)
    assert [name for name, found in counting.items() if found.serves] == ["b"]
    assert "rt:a" not in type_constraints(counting.values(), rest_proxy=False)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            TRITON | {"builtInAdapter": {"serverType": "vllm"}},
            "unrecognized built-in runtime server type vllm",
        ),
        (
            TRITON | {"containers": [{"name": "other", "image": "i"}]},
            "must include runtime container with name triton",
        ),
        (CUSTOM | {"containers": [{"name": "mm", "image": "i"}]}, "container name mm is reserved"),
        (CUSTOM | {"containers": [{"name": "mm-x", "image": "i"}]}, "container name mm-x is reserved"),
        (
            CUSTOM | {"containers": [{"name": "s", "readinessProbe": {"exec": {}}}]},
            "must not have readinessProbe",
        ),
        (
            CUSTOM
            | {"containers": [{"name": "s", "volumeMounts": [{"name": "etcd-config", "mountPath": "/e"}]}]},
            "must not mount volume etcd-config",
        ),
        (CUSTOM | {"containers": [{"name": "s", "ports": [{"containerPort": 8085}]}]}, "port 8085"),
        (CUSTOM | {"containers": [{"name": "s", "ports": [{"containerPort": 11890}]}]}, "port 11890"),
        (
            CUSTOM | {"containers": [{"name": "s", "ports": [{"containerPort": 1, "name": "grpc"}]}]},
            "port with name grpc",
        ),
        (
            CUSTOM | {"volumes": [{"name": "models-dir", "emptyDir": {}}]},
            "volume name models-dir is reserved",
        ),
        (CUSTOM | {"grpcEndpoint": None}, "grpcEndpoint is missing"),
        (CUSTOM | {"grpcEndpoint": "localhost:8085"}, "it must be port:<number> or unix:<path>"),
        (
            CUSTOM | {"grpcDataEndpoint": "unix:/other/data.sock"},
            "Only one unix domain socket path is allowed",
        ),
        (CUSTOM | {"containers": [{"name": "s"}, {"name": "s"}]}, "2 containers with name s"),
    ],
)
def test_a_runtime_that_cannot_be_run_says_why(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRuntime, match="Invalid runtime Spec: ") as refused:
        check_runtime(runtime(spec), SERVERS)
    assert told in str(refused.value)
    answer = review(
        {"apiVersion": "admission.k8s.io/v1", "request": {"uid": "u", "object": resource(spec)}}, SERVERS
    )
    assert not answer["response"]["allowed"]
    assert told in answer["response"]["status"]["message"]


def test_runtimes_of_one_model_are_none_of_the_webhooks_concern() -> None:
    spec = {"containers": [{"name": "mm", "readinessProbe": {"exec": {}}}]}
    for multi_model in ({}, {"multiModel": False}):
        single = resource(spec | multi_model, autoscalerClass="whatever")
        answer = review(
            {"apiVersion": "admission.k8s.io/v1", "request": {"uid": "u", "object": single}}, SERVERS
        )
        assert answer["response"] == {"uid": "u", "allowed": True}


@pytest.mark.parametrize(
    ("annotations", "replicas_set", "told"),
    [
        ({"autoscalerClass": "keda"}, False, "[keda] is not a supported autoscaler class type"),
        ({"autoscalerClass": "hpa", "metrics": "rps"}, False, "[rps] is not a supported metric"),
        (
            {"targetUtilizationPercentage": "0"},
            False,
            "The target utilization percentage should be a [1-100] integer.",
        ),
        (
            {"autoscalerClass": "hpa"},
            True,
            "Autoscaler is enabled and also replicas variable set. You can not set both.",
        ),
        ({"autoscalerClass": "hpa", "min-scale": "x"}, False, "The min replicas should be a integer."),
        ({"autoscalerClass": "hpa", "min-scale": "0"}, False, "The min replicas should be more than 0"),
        ({"autoscalerClass": "hpa", "max-scale": "x"}, False, "The max replicas should be a integer."),
        (
            {"autoscalerClass": "hpa", "min-scale": "2"},
            False,
            "The max replicas should be same or bigger than min replicas",
        ),
    ],
)
def test_autoscaling_that_cannot_be(annotations: dict[str, str], replicas_set: bool, told: str) -> None:
    named = {f"serving.kserve.io/{name}": value for name, value in annotations.items()}
    with pytest.raises(InvalidAutoscaling) as refused:
        read_autoscaling(named, replicas_set=replicas_set)
    assert told in str(refused.value)


def test_an_explicit_none_is_no_autoscaling() -> None:
    assert read_autoscaling({"serving.kserve.io/autoscalerClass": "none"}, replicas_set=True) is None


AUTOSCALED = read_autoscaling(
    {
        "serving.kserve.io/autoscalerClass": "hpa",
        "serving.kserve.io/min-scale": "2",
        "serving.kserve.io/max-scale": "5",
    },
    replicas_set=False,
)


@given(
    needed=st.booleans(),
    live=st.none() | st.builds(Live, st.integers(0, 6), st.none() | st.integers(900, 1000)),
    grace=st.none() | st.integers(0, 100),
    autoscaled=st.booleans(),
)
def test_scaling(needed: bool, live: Live | None, grace: int | None, autoscaled: bool) -> None:
    now = 1000
    scale = plan_scale(
        runtime(TRITON),
        AUTOSCALED if autoscaled else None,
        needed=needed,
        live=live,
        pods_per_runtime=3,
        grace_s=grace,
        now_s=now,
    )
    running = live is not None and live.replicas > 0
    if needed or grace is None:
        assert scale.replicas == (
            live.replicas if autoscaled and live and running else 2 if autoscaled else 3
        )
        assert (scale.autoscaled, scale.unused_since_s, scale.again_after_s) == (autoscaled, None, None)
        return
    unused = 0 if live is None or live.unused_since_s is None else now - live.unused_since_s
    if running and unused < grace:
        # The time of grace goes on from where it was, also for a controller that has just started.
        assert scale.replicas > 0
        assert scale.again_after_s == grace - unused
        assert scale.unused_since_s == now - unused
    else:
        assert (scale.replicas, scale.autoscaled, scale.again_after_s) == (0, False, None)


def test_a_runtimes_own_number_of_pods_goes_before_the_configured_one() -> None:
    scale = plan_scale(
        runtime(TRITON, replicas=7), None, needed=True, live=None, pods_per_runtime=2, grace_s=60, now_s=0
    )
    assert scale.replicas == 7


def test_an_entry_of_the_storage_secret_that_cannot_be_read_keeps_no_other_from_counting() -> None:
    claims, problems = claims_of_storage(
        {
            "a": b'{"type": "pvc", "name": "models"}',
            "b": b"no json",
            "c": b'{"type": "http", "url": "u", "headers": {"x": ["y"]}}',
            "d": b'{"type": "pvc"}',
        }
    )
    assert claims == {"models"}
    assert len(problems) == 1
    assert "entry b" in problems[0]


def test_claims_of_models_are_mounted_where_that_is_allowed_and_they_exist() -> None:
    named, existing = {"z", "y", "gone"}, {"a", "y", "z"}
    assert mounted_claims({"m"}, named, existing, any_claim=True) == ("m", "y", "z")
    assert mounted_claims({"m"}, named, existing, any_claim=False) == ("m",)
