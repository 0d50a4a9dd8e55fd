"""What a move from KServe ModelMesh means, told by looking at a real cluster and a real etcd."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from mesh.controller.migration import Installation, RegistryContents, Verdict, assess
from mesh.controller.predictors import model_id, read_inference_service
from mesh.instance.unsupported import check_unsupported
from mesh.registry import VModelRecord
from tests.controller.runtime_specs import CUSTOM, TRITON, resource
from tests.servers.etcd import EtcdServer
from tests.servers.kubernetes import ControlPlane

DEPLOY = Path(__file__).parents[2] / "deploy"


def service(name: str, **model: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": "models",
            "annotations": {"serving.kserve.io/deploymentMode": "ModelMesh"},
        },
        "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}, **model}}},
    }


def told(installation: Installation, verdict: Verdict) -> str:
    return "\n".join(
        f"{finding.subject}: {finding.message}"
        for finding in assess(installation, lambda named: iter(check_unsupported(named)))
        if finding.verdict is verdict
    )


def test_what_has_to_be_done_is_told_of_each_thing() -> None:
    installation = Installation(
        namespace="models",
        inference_services=[service("good", storageUri="s3://b/p"), service("bad")],
        runtimes=[
            resource(TRITON, "triton", kind="ClusterServingRuntime"),
            resource(CUSTOM | {"grpcEndpoint": None}, "mute"),
            resource({"containers": []}, "of-one-model"),
        ],
        user_configuration={
            "podsPerRuntim": 3,
            "modelMeshImage": {"name": "kserve/modelmesh"},
            "internalModelMeshEnvVars": [{"name": "MM_SEND_DEST_ID", "value": "true"}],
        },
        storage_entries={"a": b'{"type": "s3"}', "b": b"{", "c": b'{"type": "hdfs"}'},
        registry_problem="etcd did not answer",
    )
    act, changes, works = (told(installation, v) for v in (Verdict.ACT, Verdict.CHANGES, Verdict.WORKS))
    assert "modelMeshImage names the Java image" in act
    assert "ServingRuntime mute: Invalid runtime Spec: grpcEndpoint is missing" in act
    assert "InferenceService bad: spec.predictor.model must have either" in act
    assert "entry b: no JSON object" in act
    assert "type is 'hdfs'" in act
    assert "registry: not read: etcd did not answer" in act
    assert "do you mean podsPerRuntime?" in changes
    assert "MM_SEND_DEST_ID has no effect" in changes
    assert "ClusterServingRuntime triton: the adapter of triton" in changes
    assert "InferenceServices: 1, as they are" in works
    assert "1 of type s3" in works
    assert "of-one-model" not in act + changes + works


def test_vmodels_are_compared_with_what_resources_lead_to() -> None:
    same, other = service("same", storageUri="s3://b/p"), service("other", storageUri="s3://b/q")
    target = model_id(read_inference_service(same))
    vmodels = {
        "same": VModelRecord(owner="isvc", active=target, target=target),
        "other": VModelRecord(owner="isvc", active="other__isvc-0", target="other__isvc-0"),
        "stray": VModelRecord(active="x", target="x"),
    }
    installation = Installation(
        namespace="models",
        inference_services=[same, other],
        storage_entries={},
        registry=RegistryContents({}, vmodels, {"/mm/x": "is no record"}, ["abc"]),
    )
    changes = told(installation, Verdict.CHANGES)
    assert "InferenceService other: its model gets another id" in changes
    assert "InferenceService same" not in changes
    assert "vmodels without a resource: stray" in changes
    assert "1 instances are there now" in changes
    assert "/mm/x: is no record" in told(installation, Verdict.ACT)


def test_the_command_reads_a_cluster_and_its_etcd(
    cluster: ControlPlane, make_etcd: Callable[[], EtcdServer]
) -> None:
    namespace = f"old-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("apply", "--kustomize", DEPLOY / "crds")
    cluster.kubectl("wait", "--for=condition=Established", "crd/inferenceservices.serving.kserve.io")
    cluster.kubectl("create", "namespace", namespace)
    etcd = make_etcd()
    connection = json.dumps({"endpoints": etcd.endpoint, "root_prefix": "old"})
    cluster.kubectl(
        "create",
        "secret",
        "generic",
        "model-serving-etcd",
        f"--namespace={namespace}",
        f"--from-literal=etcd_connection={connection}",
    )
    cluster.kubectl("create", "secret", "generic", "storage-config", f"--namespace={namespace}")
    cluster.kubectl(
        "apply", f"--namespace={namespace}", "--filename=-", input_text=yaml.safe_dump(_in(namespace))
    )

    def ask() -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-c",
            "from mesh.cli import main; main()",
            "migrate",
            "-n",
            namespace,
            "--json",
        ]
        environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    done = ask()
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert found["InferenceServices"]["message"] == "1, as they are"
    assert found["registry"]["message"] == "0 models and 0 vmodels are taken over"
    etcd.stop()
    done = ask()
    assert done.returncode == 1
    assert "not read" in done.stdout
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def _in(namespace: str) -> dict[str, Any]:
    made = service("m", storageUri="s3://b/p")
    made["metadata"]["namespace"] = namespace
    return made
