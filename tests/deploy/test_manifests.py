"""What is installed with kustomize is taken by a real API server, and gives the controller the rights it needs."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers.kubernetes import ControlPlane
from tests.servers.process import ServerProcess

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def rendered(cluster: ControlPlane, folder: Path) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(cluster.kubectl("kustomize", folder)) if found]


def as_text(objects: list[dict[str, Any]]) -> str:
    return yaml.safe_dump_all(objects)


@pytest.fixture(scope="module")
def definitions(cluster: ControlPlane) -> None:
    cluster.kubectl("apply", "--kustomize", DEPLOY / "crds")
    cluster.kubectl(
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        *(f"crd/{name}.serving.kserve.io" for name in ("predictors", "servingruntimes", "inferenceservices")),
        "crd/clusterservingruntimes.serving.kserve.io",
    )


@pytest.fixture
def namespace(cluster: ControlPlane) -> Iterator[str]:
    name = f"install-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def moved(objects: list[dict[str, Any]], namespace: str) -> list[dict[str, Any]]:
    """The objects in another namespace than the one that the manifests name."""
    return [
        json.loads(json.dumps(found).replace('"modelmesh-serving"', f'"{namespace}"')) for found in objects
    ]


@pytest.mark.parametrize("folder", ["cluster", "namespace", "quickstart", "runtimes", "cert-manager"])
@pytest.mark.usefixtures("definitions")
def test_manifests_are_taken_by_the_api_server(cluster: ControlPlane, namespace: str, folder: str) -> None:
    objects = moved(rendered(cluster, DEPLOY / folder), namespace)
    taken = [found for found in objects if not found["apiVersion"].startswith("cert-manager.io/")]
    told = cluster.kubectl("apply", "--dry-run=server", "--filename=-", input_text=as_text(taken))
    assert len(told.splitlines()) == len(taken)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "examples" / "kubernetes").glob("*.yaml")), ids=lambda f: f.stem
)
@pytest.mark.usefixtures("definitions")
def test_examples_are_taken_by_the_api_server(cluster: ControlPlane, namespace: str, file: Path) -> None:
    cluster.kubectl("apply", "--dry-run=server", "--namespace", namespace, "--filename", file)


def test_both_kinds_of_runtimes_have_one_schema() -> None:
    kinds = [
        yaml.safe_load((DEPLOY / "crds" / f"{name}.yaml").read_text())["spec"]["versions"][0]["schema"]
        for name in ("servingruntimes", "clusterservingruntimes")
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.usefixtures("definitions")
def test_a_status_outside_the_schema_is_refused(cluster: ControlPlane, namespace: str) -> None:
    predictor = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "Predictor",
        "metadata": {"name": "m", "namespace": namespace},
        "spec": {"modelType": {"name": "onnx"}},
    }
    path = f"/apis/serving.kserve.io/v1alpha1/namespaces/{namespace}/predictors"
    made = cluster.call("POST", path, predictor)
    assert made["status"] == {
        "transitionStatus": "UpToDate",
        "activeModelState": "Pending",
        "targetModelState": "",
        "available": False,
        "failedCopies": 0,
        "totalCopies": 0,
    }
    made["status"]["activeModelState"] = "Sleeping"
    with pytest.raises(Exception, match="Unsupported value"):
        cluster.call("PUT", f"{path}/m/status", made)


@pytest.mark.parametrize("folder", ["cluster", "namespace"])
@pytest.mark.usefixtures("definitions")
def test_the_controller_has_the_rights_it_needs(
    cluster: ControlPlane, namespace: str, folder: str, ram_folder: Path
) -> None:
    """Run with the account that the manifests make, it gives a runtime its Deployment, and is refused nothing."""
    kinds = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    rights = [
        found for found in moved(rendered(cluster, DEPLOY / folder), namespace) if found["kind"] in kinds
    ]
    suffixed = json.loads(json.dumps(rights).replace("modelmesh-controller-role", f"role-{namespace}"))
    cluster.kubectl("apply", "--filename=-", input_text=as_text(suffixed))
    cluster.kubectl(
        "create",
        "secret",
        "generic",
        "model-serving-etcd",
        f"--namespace={namespace}",
        f'--from-literal=etcd_connection={{"endpoints": "{cluster.etcd}", "root_prefix": "/{namespace}"}}',
    )
    # In a real installation it owns what it makes where it sees no namespaces.
    own = next(
        found
        for found in moved(rendered(cluster, DEPLOY / folder), namespace)
        if found["kind"] == "Deployment"
    )
    own["spec"]["replicas"] = 0
    cluster.kubectl("apply", "--filename=-", input_text=as_text([own]))
    runtime = yaml.safe_load((ROOT / "examples" / "kubernetes" / "custom-runtime.yaml").read_text())
    cluster.kubectl("apply", "--namespace", namespace, "--filename=-", input_text=as_text([runtime]))
    log = ram_folder / "controller.log"
    controller = ServerProcess(
        "controller",
        [
            sys.executable,
            "-c",
            "from mesh.cli import main; main()",
            "controller",
            "--metrics-addr=:0",
            "--health-probe-bind-address=:0",
            "--enable-leader-election",
        ],
        log,
        env={
            "KUBECONFIG": str(account_config(cluster, namespace, ram_folder)),
            "NAMESPACE": namespace,
            "NAMESPACE_SCOPE": "true" if folder == "namespace" else "",
        },
    )
    controller.start()
    try:
        made = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/modelmesh-serving-linear"
        constraints = f"/api/v1/namespaces/{namespace}/configmaps/tc-config"
        cluster.until(
            lambda: all(cluster.find(path) for path in (made, constraints)), "the runtime's objects"
        )
    finally:
        status = controller.stop()
        for kind, name in (
            ("clusterrole", f"role-{namespace}"),
            ("clusterrolebinding", "modelmesh-controller-rolebinding"),
        ):
            cluster.kubectl("delete", kind, name, "--ignore-not-found")
    assert "forbidden" not in log.read_text()
    assert status == 0


def account_config(cluster: ControlPlane, namespace: str, folder: Path) -> Path:
    """A kubeconfig of the controller's account."""
    token = cluster.call(
        "POST",
        f"/api/v1/namespaces/{namespace}/serviceaccounts/modelmesh-controller/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )["status"]["token"]
    config = json.loads(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    file = folder / "account"
    file.write_text(json.dumps(config))
    return file


@pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts are written for bash")
@pytest.mark.parametrize("script", ["install.sh", "delete.sh", "setup-namespace.sh"])
def test_scripts_can_be_read(script: str) -> None:
    subprocess.run(["bash", "-n", DEPLOY / script], check=True)


@pytest.mark.usefixtures("definitions")
def test_a_namespace_is_set_up_by_the_script(cluster: ControlPlane, namespace: str, ram_folder: Path) -> None:
    kubectl = ram_folder / "kubectl"
    kubectl.write_text(f'#!/bin/sh\nexec {cluster.program} kubectl --kubeconfig {cluster.kubeconfig} "$@"\n')
    kubectl.chmod(0o755)
    user = f"{namespace}-user"
    environment = {**os.environ, "PATH": f"{ram_folder}:{os.environ['PATH']}"}
    subprocess.run([DEPLOY / "setup-namespace.sh", user], check=True, env=environment)
    assert cluster.find(f"/api/v1/namespaces/{user}")["metadata"]["labels"]["modelmesh-enabled"] == "true"
    assert cluster.find(f"/api/v1/namespaces/{user}/secrets/storage-config")
    cluster.kubectl("delete", "namespace", user, "--wait=false")
