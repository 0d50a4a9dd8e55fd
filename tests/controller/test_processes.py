"""``mesh controller`` as a process: elections, ends, the webhook, and an API server that goes away."""

import asyncio
import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from mesh.controller.cluster import DEPLOYMENTS, SERVING_RUNTIMES
from mesh.controller.cluster.kinds import LEASES
from mesh.controller.cluster.leadership import LOCK
from tests.controller.processes import ControllerProcess
from tests.controller.stage import SERVICE, Stage, inference_service, serving_runtime
from tests.servers.kubernetes import ApiRefusedError
from tests.servers.process import free_port

pytestmark = pytest.mark.asyncio
RT = f"{SERVICE}-rt"
TERMS = (
    "--enable-leader-election",
    "--leader-elect-lease-duration-sec=3s",
    "--leader-elect-lease-renew-deadline-sec=2s",
    "--leader-elect-retry-period-sec=500ms",
)


@pytest.fixture
def controllers() -> Iterator[list[ControllerProcess]]:
    """Those that a test starts; ended after it."""
    started: list[ControllerProcess] = []
    yield started
    for one in started:
        if one.process.running:
            one.process.kill()


def replicas(number: int) -> Any:
    return lambda deployment: deployment["spec"]["replicas"] == number


async def test_a_standby_leads_when_the_leader_is_killed_or_ends(
    stage: Stage, controllers: list[ControllerProcess]
) -> None:
    for name in ("a", "b"):
        one = ControllerProcess(stage.cluster, stage.namespace, stage.folder, *TERMS, name=name)
        controllers.append(one)
        one.wait_until_ready()
        await stage.until(lambda: any(other.leads for other in controllers), "a leader")
    first, second = controllers
    assert first.leads
    assert not second.leads
    await stage.create(serving_runtime(replicas=1))
    await stage.until_object(DEPLOYMENTS, RT)
    first.process.kill()
    # Nobody tells the standby: it finds the model that came meanwhile.
    await stage.create(inference_service("m"))
    killed = time.monotonic()
    await stage.until(lambda: second.leads, "the standby")
    assert time.monotonic() - killed > 1
    await stage.until_object(DEPLOYMENTS, RT, replicas(1))
    lease = await stage.read(LEASES, LOCK)
    assert lease["spec"]["holderIdentity"] == "modelmesh-controller-b-0"
    assert lease["spec"]["leaseTransitions"] == 1
    # One that is told to end gives the Lease back.
    third = ControllerProcess(stage.cluster, stage.namespace, stage.folder, *TERMS, name="c")
    controllers.append(third)
    third.wait_until_ready()
    assert not third.leads
    assert second.process.stop() == 0
    assert (await stage.read(LEASES, LOCK))["spec"]["holderIdentity"] in {"", "modelmesh-controller-c-0"}
    await stage.until(lambda: third.leads, "the third")


async def test_work_goes_on_when_the_api_server_comes_back(
    stage: Stage, controllers: list[ControllerProcess]
) -> None:
    one = ControllerProcess(stage.cluster, stage.namespace, stage.folder)
    controllers.append(one)
    one.wait_until_ready()
    await stage.create(serving_runtime(replicas=1))
    await stage.until_object(DEPLOYMENTS, RT, replicas(0))
    stage.cluster.stop_api_server()
    await asyncio.sleep(1)
    await asyncio.to_thread(stage.cluster.start_api_server)
    assert one.process.running
    await stage.create(inference_service("m"))
    await stage.until_object(DEPLOYMENTS, RT, replicas(1))
    assert one.metric('modelmesh_controller_reconciles_total{queue="runtime",result="done"}') > 0


async def test_runtimes_that_cannot_be_run_are_refused_when_they_are_written(
    stage: Stage, controllers: list[ControllerProcess], tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificates = tmp_path / "certificates"
    certificates.mkdir()

    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(str(certificates / "tls.key"))
    leaf.cert_chain_pems[0].write_to_path(str(certificates / "tls.crt"))
    port = free_port()
    one = ControllerProcess(
        stage.cluster,
        stage.namespace,
        stage.folder,
        f"--webhook-port={port}",
        f"--webhook-certificates={certificates}",
    )
    controllers.append(one)
    one.wait_until_ready()
    name = f"webhook-{stage.namespace}"
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    hook = {
        "name": "servingruntime.modelmesh-webhook-server.default",
        "clientConfig": {
            "url": f"https://127.0.0.1:{port}/validate-serving-modelmesh-io-v1alpha1-servingruntime",
            "caBundle": base64.b64encode(authority.cert_pem.bytes()).decode(),
        },
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": stage.namespace}},
        "rules": [
            {
                "apiGroups": ["serving.kserve.io"],
                "apiVersions": ["v1alpha1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["servingruntimes"],
            }
        ],
    }
    await stage.call("POST", path, {"metadata": {"name": name}, "webhooks": [hook]})
    try:
        wrong = serving_runtime("wrong", replicas=2)
        wrong["metadata"]["annotations"] = {"serving.kserve.io/autoscalerClass": "hpa"}

        async def refused() -> str:
            """Why it is refused; the API server hears of a webhook a moment after it is written."""
            try:
                await stage.create(wrong)
            except ApiRefusedError as problem:
                return str(problem)
            await stage.delete(SERVING_RUNTIMES, "wrong")
            return ""

        message = await stage.until(refused, "a refusal")
        assert "Autoscaler is enabled and also replicas variable set. You can not set both." in message
        await stage.create(serving_runtime("right"))
        reserved = {"spec": {"containers": [{"name": "mm", "image": "x"}]}}
        with pytest.raises(ApiRefusedError, match="container name mm is reserved"):
            await stage.change(SERVING_RUNTIMES, "right", reserved)
        # One that serves a single model is KServe's.
        await stage.create(
            serving_runtime("single", multiModel=False, containers=[{"name": "mm", "image": "x"}])
        )
    finally:
        await stage.call("DELETE", f"{path}/{name}")


async def test_one_that_cannot_work_says_why_and_ends(
    stage: Stage, controllers: list[ControllerProcess]
) -> None:
    await stage.configure(podsPerRuntime="many")
    one = ControllerProcess(stage.cluster, stage.namespace, stage.folder)
    controllers.append(one)
    await stage.until(lambda: not one.process.running, "its end")
    assert "podsPerRuntime" in one.process.log_tail()
