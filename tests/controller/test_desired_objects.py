"""The objects that the controller makes, whole: what changes in them restarts pods, so a change is to be seen.

``UPDATE_GOLDEN=1 pytest tests/controller/test_desired_objects.py`` writes them anew.
"""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mesh.controller.configuration import read_configuration
from mesh.controller.namespaces import (
    InvalidEtcdSecret,
    constraints_map,
    endpoints_of,
    is_enabled,
    mesh_service,
    must_be_made_anew,
    network_policy,
    read_connection,
    secret_for_namespace,
    service_monitor,
)
from mesh.controller.namespaces.etcd_secret import CONNECTION
from mesh.controller.runtimes import (
    Surroundings,
    autoscaler,
    read_autoscaling,
    read_runtime,
    runtime_deployment,
)
from tests.controller.runtime_specs import CUSTOM, TRITON, resource

GOLDEN = Path(__file__).parent / "golden"
PLAIN = Surroundings("models", "model-serving-etcd")
OWNER = {"apiVersion": "v1", "kind": "Namespace", "name": "models", "uid": "9"}
SECURED = {"tls": {"secretName": "certs", "clientAuth": "require"}}
DEMANDING = {
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "labels": {"team": "a", "app.kubernetes.io/name": "mine"},
    "annotations": {"prometheus.io/scrape": "false"},
    "imagePullSecrets": [{"name": "own"}, {"name": "shared"}],
    "volumes": [{"name": "cache", "emptyDir": {}}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]},
                ]
            }
        }
    },
}


def check_golden(name: str, made: Any) -> None:
    file = GOLDEN / f"{name}.json"
    written = json.dumps(made, indent=1) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(written)
    assert written == file.read_text(), f"{file.name} differs: is it meant to? Then UPDATE_GOLDEN=1"


@pytest.mark.parametrize(
    ("name", "spec", "configuration", "surroundings"),
    [
        ("deployment-adapter", TRITON, {}, PLAIN),
        (
            "deployment-without-rest",
            TRITON,
            {"restProxy": {"enabled": False}, "metrics": {"enabled": False}},
            PLAIN,
        ),
        ("deployment-custom", CUSTOM, {}, PLAIN),
        ("deployment-without-puller", CUSTOM | {"storageHelper": {"disabled": True}}, {}, PLAIN),
        ("deployment-claims", TRITON, {}, Surroundings("models", "model-serving-etcd", ("a", "b"))),
        ("deployment-secured", TRITON, SECURED, Surroundings("models", "model-serving-etcd", has_ca=True)),
        (
            "deployment-demanding",
            CUSTOM | DEMANDING,
            {
                "imagePullSecrets": [{"name": "shared"}],
                "serviceAccountName": "models",
                "runtimePodLabels": {"team": "b", "Cost": "1"},
                "payloadProcessors": ["logger://*", "http://sink"],
                "enableAccessLogging": True,
                "internalModelMeshEnvVars": [
                    {"name": "MM_METRICS", "value": "prometheus:port=9"},
                    {"name": "KV_STORE", "value": "memory:"},
                    {"name": "MESH_PRELOAD", "value": "false"},
                ],
            },
            PLAIN,
        ),
    ],
)
def test_deployments(
    name: str, spec: dict[str, Any], configuration: dict[str, Any], surroundings: Surroundings
) -> None:
    runtime = read_runtime(resource(spec, maxLoadingConcurrency="2"))
    check_golden(name, runtime_deployment(runtime, read_configuration(configuration), surroundings))


def test_what_a_namespace_has_once() -> None:
    configuration = read_configuration({})
    check_golden(
        "namespace",
        [
            mesh_service(configuration, "models", OWNER),
            service_monitor(configuration, "models", "42"),
            network_policy(configuration, "models", OWNER),
            constraints_map([read_runtime(resource(TRITON))], configuration, "models"),
        ],
    )


def test_an_autoscaler() -> None:
    runtime = read_runtime(resource(TRITON, autoscalerClass="hpa", min_scale="2", max_scale="4"))
    wanted = read_autoscaling(runtime.annotations, replicas_set=False)
    assert wanted is not None
    check_golden("autoscaler", autoscaler(runtime, wanted, read_configuration({}), "models"))


def test_runtimes_of_a_cluster_own_their_deployments_too() -> None:
    runtime = read_runtime(resource(TRITON, kind="ClusterServingRuntime"))
    made = runtime_deployment(runtime, read_configuration({}), PLAIN)
    assert made["metadata"]["ownerReferences"][0]["kind"] == "ClusterServingRuntime"


def test_endpoints_tell_where_users_go() -> None:
    plain = endpoints_of(read_configuration({}), "models")
    assert (plain.grpc, plain.rest) == (
        "grpc://modelmesh-serving.models:8033",
        "http://modelmesh-serving.models:8008",
    )
    assert endpoints_of(read_configuration(SECURED), "models").rest == "https://modelmesh-serving.models:8008"
    assert endpoints_of(read_configuration({"restProxy": {"enabled": False}}), "models").rest is None


def test_a_service_whose_headlessness_changes_is_made_anew() -> None:
    headless = mesh_service(read_configuration({}), "models", OWNER)
    plain = mesh_service(read_configuration({"headlessService": False}), "models", OWNER)
    live = {"spec": plain["spec"] | {"clusterIP": "10.0.0.7"}}
    assert must_be_made_anew(live, headless)
    assert not must_be_made_anew(live, plain)


def _secret(connection: str, **files: str) -> dict[str, Any]:
    data = {CONNECTION: connection, **{name.replace("_", "."): value for name, value in files.items()}}
    return {
        "metadata": {"name": "model-serving-etcd"},
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in data.items()},
    }


def test_a_namespaces_connection_leads_to_its_own_part_and_has_the_files() -> None:
    secret = _secret(
        '{"endpoints": "https://e:2379", "root_prefix": "/root", "certificate_file": "ca.crt"}', ca_crt="PEM"
    )
    copy = secret_for_namespace(secret, "models")
    assert read_connection(copy["data"])["root_prefix"] == "/root/mm_ns/models"
    assert copy["data"]["ca.crt"] == secret["data"]["ca.crt"]
    assert copy["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "modelmesh-controller"}


@pytest.mark.parametrize(
    ("connection", "told"),
    [
        ('{"certificate_file": "ca.crt"}', "referenced TLS certificate secret key not found: ca.crt"),
        ('{"client_key": "k"}', "need to set both client_key/client_key_file"),
        ("[]", "must be a JSON object"),
        ("{", "is no JSON"),
    ],
)
def test_a_connection_that_cannot_be_used_says_why(connection: str, told: str) -> None:
    with pytest.raises(InvalidEtcdSecret, match=told):
        secret_for_namespace(_secret(connection), "models")


@pytest.mark.parametrize(
    ("labels", "phase", "of_controller", "enabled"),
    [
        ({"modelmesh-enabled": "true"}, "Active", False, True),
        ({"modelmesh-enabled": "true"}, "Terminating", False, False),
        ({"modelmesh-enabled": "True"}, "Active", False, False),
        ({}, "Active", False, False),
        ({}, "Active", True, True),
        ({"modelmesh-enabled": "false"}, "Active", True, False),
    ],
)
def test_which_namespaces_have_a_mesh(
    labels: dict[str, str], phase: str, of_controller: bool, enabled: bool
) -> None:
    namespace = {"metadata": {"name": "n", "labels": labels}, "status": {"phase": phase}}
    assert is_enabled(namespace, of_controller=of_controller) is enabled
