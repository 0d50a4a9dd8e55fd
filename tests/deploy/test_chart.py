"""The Helm chart makes what kustomize makes, with a user's values."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_manifests import as_text, definitions, namespace, rendered
from tests.servers.helm import render
from tests.servers.kubernetes import ControlPlane

__all__ = ["definitions", "namespace"]
DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "chart"


def made(program: Path, namespace: str, *values: str) -> dict[tuple[str, str], dict[str, Any]]:
    objects = [found for found in yaml.safe_load_all(render(program, CHART, namespace, *values)) if found]
    return {(found["kind"], found["metadata"]["name"]): found for found in objects}


@pytest.mark.parametrize("scope", ["cluster", "namespace"])
def test_it_makes_the_objects_that_kustomize_makes(
    cluster: ControlPlane, helm_program: Path, scope: str
) -> None:
    plain = {
        (found["kind"], found["metadata"]["name"]): found
        for found in rendered(cluster, DEPLOY / scope)
        if found["kind"] != "CustomResourceDefinition"
    }
    chart = made(helm_program, "modelmesh-serving", f"clusterScope={str(scope == 'cluster').lower()}")
    assert chart.keys() == plain.keys()
    for name in (("Deployment", "modelmesh-controller"), ("ConfigMap", "model-serving-config-defaults")):
        assert chart[name]["metadata"]["namespace"] == plain[name]["metadata"]["namespace"]
    pods = [
        found["Deployment", "modelmesh-controller"]["spec"]["template"]["spec"] for found in (chart, plain)
    ]
    assert pods[0]["containers"][0]["args"] == pods[1]["containers"][0]["args"]
    assert pods[0]["containers"][0]["env"] == pods[1]["containers"][0]["env"]


@pytest.mark.parametrize(
    "values", [("quickstart=true",), ("clusterScope=false",), ("replicas=3", "config.podsPerRuntime=3")]
)
@pytest.mark.usefixtures("definitions")
def test_what_it_makes_is_taken_by_the_api_server(
    cluster: ControlPlane, helm_program: Path, namespace: str, values: tuple[str, ...]
) -> None:
    objects = list(made(helm_program, namespace, *values).values())
    told = cluster.kubectl("apply", "--dry-run=server", "--filename=-", input_text=as_text(objects))
    assert len(told.splitlines()) == len(objects)


def test_values_reach_what_they_are_for(helm_program: Path) -> None:
    objects = made(
        helm_program,
        "here",
        "image.name=mine",
        "image.digest=sha256:1",
        "runtimes.triton-2\\.x=false",
        "config.podsPerRuntime=3",
        "etcd.connection.endpoints=http://etcd:2379",
        "webhook.certManager=true",
    )
    controller = objects["Deployment", "modelmesh-controller"]["spec"]["template"]["spec"]["containers"][0]
    assert controller["image"] == "mine@sha256:1"
    defaults = objects["ConfigMap", "model-serving-config-defaults"]["data"]["config-defaults.yaml"]
    assert yaml.safe_load(defaults)["modelMeshImage"] == {
        "name": "mine",
        "tag": "latest",
        "digest": "sha256:1",
    }
    assert ("ClusterServingRuntime", "triton-2.x") not in objects
    assert yaml.safe_load(objects["ConfigMap", "model-serving-config"]["data"]["config.yaml"]) == {
        "podsPerRuntime": 3
    }
    assert "http://etcd:2379" in objects["Secret", "model-serving-etcd"]["stringData"]["etcd_connection"]
    assert objects["Certificate", "modelmesh-webhook-server"]["spec"]["dnsNames"] == [
        "modelmesh-webhook-server-service.here.svc"
    ]
    binding = objects["ClusterRoleBinding", "modelmesh-controller-rolebinding"]
    assert binding["subjects"][0]["namespace"] == "here"
