"""What a real cluster gets of a controller that runs in it: Deployments, Services and all the rest."""

import base64
import json
import time
from typing import Any

import pytest

from mesh.controller.cluster import (
    AUTOSCALERS,
    CLUSTER_SERVING_RUNTIMES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    INFERENCE_SERVICES,
    NAMESPACES,
    NETWORK_POLICIES,
    PREDICTORS,
    SECRETS,
    SERVICE_MONITORS,
    SERVICES,
    SERVING_RUNTIMES,
)
from mesh.controller.cluster.kinds import VOLUME_CLAIMS
from tests.controller.stage import (
    SERVICE,
    Stage,
    define_kind,
    inference_service,
    predictor,
    secret,
    serving_runtime,
)

pytestmark = pytest.mark.asyncio
RT = f"{SERVICE}-rt"
ENABLED = "modelmesh-enabled"


def replicas(number: int) -> Any:
    return lambda deployment: deployment["spec"]["replicas"] == number


def pod(deployment: Any) -> Any:
    return deployment["spec"]["template"]["spec"]


def variables(deployment: Any) -> dict[str, str]:
    mm = next(one for one in pod(deployment)["containers"] if one["name"] == "mm")
    return {item["name"]: item.get("value", "") for item in mm["env"]}


async def test_a_namespace_has_its_objects_while_there_is_a_runtime(stage: Stage) -> None:
    await stage.start_controller()
    service = await stage.until_object(SERVICES, SERVICE)
    assert service["spec"]["clusterIP"] == "None"
    assert [port["name"] for port in service["spec"]["ports"]] == ["grpc", "http", "prometheus"]
    assert service["metadata"]["ownerReferences"][0]["name"] == "modelmesh-controller"
    await stage.until_object(NETWORK_POLICIES, "modelmesh-runtimes")
    assert await stage.read(CONFIG_MAPS, "tc-config") is None
    await stage.create(serving_runtime())
    rules = await stage.until_object(CONFIG_MAPS, "tc-config")
    written = json.loads(base64.b64decode(rules["binaryData"]["type_constraints"]))
    assert written["_default"] == {"required": ["_no_runtime"]}
    assert written["rt:rt"] == {"required": ["rt:rt"]}
    deployment = await stage.until_object(DEPLOYMENTS, RT, replicas(0))
    assert deployment["metadata"]["ownerReferences"][0]["kind"] == "ServingRuntime"
    await stage.until_object(DISRUPTION_BUDGETS, RT)
    # What others set stays, what others change is set right.
    restarted = {
        "spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}
    }
    await stage.change(DEPLOYMENTS, RT, restarted)
    await stage.change(
        DEPLOYMENTS, RT, {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}
    )
    deployment = await stage.until_object(
        DEPLOYMENTS, RT, lambda found: pod(found)["terminationGracePeriodSeconds"] == 90
    )
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["kubectl.kubernetes.io/restartedAt"] == "now"
    # What somebody deletes comes again; another Service of the mesh goes.
    await stage.delete(SERVICES, SERVICE)
    await stage.until_object(
        SERVICES, SERVICE, lambda found: found["metadata"]["uid"] != service["metadata"]["uid"]
    )
    stray = {
        "metadata": {"name": "stray", "labels": {"modelmesh-service": "x"}},
        "spec": {"ports": [{"port": 1}]},
    }
    await stage.call("POST", SERVICES.path(stage.namespace), stray)
    await stage.until_gone(SERVICES, "stray")
    await stage.change(SERVING_RUNTIMES, "rt", {"spec": {"disabled": True}})
    await stage.until_gone(DEPLOYMENTS, RT)
    await stage.until_gone(DISRUPTION_BUDGETS, RT)
    await stage.delete(SERVING_RUNTIMES, "rt")
    await stage.until_gone(CONFIG_MAPS, "tc-config")


async def test_the_configuration_counts_while_the_controller_runs(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    await stage.create(serving_runtime(replicas=3))
    await stage.create(serving_runtime("plain"))
    await stage.create(inference_service("m"))
    await stage.start_controller()
    await stage.until_object(DEPLOYMENTS, RT, replicas(3))
    await stage.until_object(DEPLOYMENTS, f"{SERVICE}-plain", replicas(2))
    first = await stage.until_object(SERVICES, SERVICE)
    await stage.configure(
        podsPerRuntime=1,
        headlessService=False,
        metrics={"port": 9, "perModel": True},
        restProxy={"enabled": False},
    )
    await stage.until_object(DEPLOYMENTS, f"{SERVICE}-plain", replicas(1))
    service = await stage.until_object(SERVICES, SERVICE, lambda found: found["spec"]["clusterIP"] != "None")
    assert service["metadata"]["uid"] != first["metadata"]["uid"]
    assert [port["port"] for port in service["spec"]["ports"]] == [8033, 9]
    deployment = await stage.until_object(
        DEPLOYMENTS, RT, lambda found: "port=9" in variables(found)["MM_METRICS"]
    )
    assert [one["name"] for one in pod(deployment)["containers"]] == ["server", "mm"]
    assert replicas(3)(deployment)
    # What cannot be used changes nothing, and says why.
    await stage.configure(podsPerRuntime="many")
    await stage.until(lambda: "the configuration stays as it was" in caplog.text, "the complaint")
    await stage.change(SERVING_RUNTIMES, "plain", {"metadata": {"labels": {"touched": "1"}}})
    await stage.create(serving_runtime("another"))
    await stage.until_object(DEPLOYMENTS, f"{SERVICE}-another", replicas(1))
    # Gone, it leaves the defaults.
    await stage.delete(CONFIG_MAPS, "model-serving-config")
    await stage.until_object(DEPLOYMENTS, f"{SERVICE}-plain", replicas(2))
    # A mesh of another name has a Service of that name alone.
    stage.configuration.clear()
    await stage.configure(inferenceServiceName="other")
    await stage.until_object(SERVICES, "other")
    await stage.until_gone(SERVICES, SERVICE)
    await stage.until_object(DEPLOYMENTS, "other-rt")


async def test_a_runtime_has_pods_while_models_need_it(stage: Stage) -> None:
    await stage.configure(scaleToZero={"enabled": True, "gracePeriodSeconds": 2}, podsPerRuntime=1)
    await stage.create(serving_runtime())
    await stage.start_controller()
    await stage.until_object(DEPLOYMENTS, RT, replicas(0))
    await stage.create(predictor("p"))
    await stage.until_object(DEPLOYMENTS, RT, replicas(1))
    # One that cannot be read needs no runtime.
    wrong = inference_service("wrong")
    del wrong["spec"]["predictor"]["model"]["storage"]
    await stage.create(wrong)
    begun = time.monotonic()
    await stage.delete(PREDICTORS, "p")
    await stage.until_object(DEPLOYMENTS, RT, replicas(0))
    assert time.monotonic() - begun > 1
    await stage.create(inference_service("m"))
    await stage.until_object(DEPLOYMENTS, RT, replicas(1))


async def test_an_autoscaler_has_the_pods_where_annotations_ask_for_it(stage: Stage) -> None:
    runtime = serving_runtime()
    prefix = "serving.kserve.io/"
    asked = {
        "autoscalerClass": "hpa",
        "min-scale": "2",
        "max-scale": "4",
        "targetUtilizationPercentage": "60",
    }
    runtime["metadata"]["annotations"] = {prefix + name: value for name, value in asked.items()}
    # The model is there before the runtime's Deployment.
    await stage.create(inference_service("m"))
    await stage.create(runtime)
    await stage.start_controller()
    hpa = await stage.until_object(AUTOSCALERS, RT)
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == (2, 4)
    await stage.until_object(DEPLOYMENTS, RT, replicas(2))
    # Who scales from now on is the autoscaler.
    await stage.change(DEPLOYMENTS, RT, {"spec": {"replicas": 3}}, "scale")
    await stage.change(SERVING_RUNTIMES, "rt", {"metadata": {"annotations": {f"{prefix}max-scale": "5"}}})
    await stage.until_object(AUTOSCALERS, RT, lambda found: found["spec"]["maxReplicas"] == 5)
    assert replicas(3)(await stage.read(DEPLOYMENTS, RT))
    await stage.change(
        SERVING_RUNTIMES, "rt", {"metadata": {"annotations": {f"{prefix}autoscalerClass": "none"}}}
    )
    await stage.until_gone(AUTOSCALERS, RT)
    await stage.until_object(DEPLOYMENTS, RT, replicas(2))
    # Neither is a runtime that contradicts itself run, nor does it stop: it is told.
    wrong = {"metadata": {"annotations": {f"{prefix}autoscalerClass": "hpa", f"{prefix}min-scale": "9"}}}
    await stage.change(SERVING_RUNTIMES, "rt", wrong)
    await stage.until_event(
        "rt", "InvalidRuntime", "The max replicas should be same or bigger than min replicas."
    )
    assert replicas(2)(await stage.read(DEPLOYMENTS, RT))


async def test_claims_are_mounted_that_the_secret_or_a_model_names(stage: Stage) -> None:
    pulling = serving_runtime(storageHelper={"disabled": False})
    await stage.create(pulling)
    storage = secret(
        "storage-config", one=json.dumps({"type": "pvc", "name": "listed"}), odd='{"headers": {"a": 1}}'
    )
    await stage.create(storage)
    await stage.start_controller()

    def mounts(*names: str) -> Any:
        return lambda found: (
            [volume["name"] for volume in pod(found)["volumes"] if "persistentVolumeClaim" in volume]
            == sorted(names)
        )

    await stage.until_object(DEPLOYMENTS, RT, mounts("listed"))
    more = base64.b64encode(json.dumps({"type": "pvc", "name": "added"}).encode()).decode()
    await stage.change(SECRETS, "storage-config", {"data": {"two": more}})
    await stage.until_object(DEPLOYMENTS, RT, mounts("listed", "added"))
    model = inference_service("m")
    del model["spec"]["predictor"]["model"]["storage"]
    model["spec"]["predictor"]["model"]["storageUri"] = "pvc://named/path"
    await stage.create(model)
    await stage.configure(allowAnyPVC=True)
    claim = {
        "metadata": {"name": "named"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    await stage.call("POST", VOLUME_CLAIMS.path(stage.namespace), claim)
    await stage.until_object(DEPLOYMENTS, RT, mounts("listed", "added", "named"))
    await stage.delete(INFERENCE_SERVICES, "m")
    await stage.until_object(DEPLOYMENTS, RT, mounts("listed", "added"))


async def test_prometheus_operator_is_told_where_it_is_installed(stage: Stage) -> None:
    define_kind(
        stage.cluster,
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
            "spec": {
                "group": "monitoring.coreos.com",
                "names": {"kind": "ServiceMonitor", "plural": "servicemonitors"},
                "scope": "Namespaced",
                "versions": [
                    {
                        "name": "v1",
                        "served": True,
                        "storage": True,
                        "schema": {
                            "openAPIV3Schema": {
                                "type": "object",
                                "x-kubernetes-preserve-unknown-fields": True,
                            }
                        },
                    }
                ],
            },
        },
    )
    await stage.start_controller()
    monitor = await stage.until_object(SERVICE_MONITORS, "modelmesh-metrics-monitor")
    assert monitor["spec"]["selector"] == {"matchLabels": {"modelmesh-service": SERVICE}}
    assert monitor["metadata"]["ownerReferences"][0]["kind"] == "Service"
    await stage.configure(metrics={"disablePrometheusOperatorSupport": True})
    await stage.until_gone(SERVICE_MONITORS, "modelmesh-metrics-monitor")


async def test_a_controller_of_the_cluster_serves_the_namespaces_that_ask_for_it(stage: Stage) -> None:
    runtime = f"rt-{stage.namespace}"
    deployment = f"{SERVICE}-{runtime}"
    other = f"{stage.namespace}-other"
    metadata = {"name": other, "labels": {ENABLED: "true"}}
    await stage.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    await stage.create(serving_runtime(runtime, CLUSTER_SERVING_RUNTIMES))
    try:
        await stage.start_controller(cluster_scope=True)
        for namespace in (stage.namespace, other):
            found = await stage.until_object(DEPLOYMENTS, deployment, namespace=namespace)
            assert found["metadata"]["ownerReferences"][0]["kind"] == "ClusterServingRuntime"
            service = await stage.until_object(SERVICES, SERVICE, namespace=namespace)
            assert service["metadata"]["ownerReferences"][0]["kind"] == "Namespace"
        # The connection leads to a part of the registry of its own.
        copied = await stage.until_object(SECRETS, "model-serving-etcd", namespace=other)
        connection = json.loads(base64.b64decode(copied["data"]["etcd_connection"]))
        assert connection["root_prefix"] == f"/{stage.namespace}/mm_ns/{other}"
        # A namespace's own runtime stands for the cluster's, also to opt out.
        await stage.create(serving_runtime(runtime, disabled=True), other)
        await stage.until_gone(DEPLOYMENTS, deployment, other)
        await stage.call("DELETE", SERVING_RUNTIMES.path(other, runtime))
        await stage.until_object(DEPLOYMENTS, deployment, namespace=other)
        # A namespace that does not ask any more loses all of it.
        await stage.change(NAMESPACES, other, {"metadata": {"labels": {ENABLED: "false"}}})
        for kind, name in (
            (DEPLOYMENTS, deployment),
            (SERVICES, SERVICE),
            (CONFIG_MAPS, "tc-config"),
            (SECRETS, "model-serving-etcd"),
            (NETWORK_POLICIES, "modelmesh-runtimes"),
        ):
            await stage.until_gone(kind, name, other)
        await stage.change(NAMESPACES, other, {"metadata": {"labels": {ENABLED: "true"}}})
        await stage.until_object(DEPLOYMENTS, deployment, namespace=other)
        # One that is going is left alone.
        await stage.delete(NAMESPACES, other)
        await stage.until_gone(SERVICES, SERVICE, other)
        assert await stage.read(SECRETS, "model-serving-etcd") is not None
        await stage.change(CLUSTER_SERVING_RUNTIMES, runtime, {"spec": {"multiModel": False}})
        await stage.until_gone(DEPLOYMENTS, deployment)
    finally:
        await stage.delete(CLUSTER_SERVING_RUNTIMES, runtime)
        await stage.delete(NAMESPACES, stage.namespace)
