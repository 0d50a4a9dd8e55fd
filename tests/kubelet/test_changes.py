"""Changes of what is served and of what serves it, under load."""

import asyncio
import json
from typing import Any

import pytest

from tests.kubelet.installation import Namespace, inference_service, runtime
from tests.kubelet.load import Load

pytestmark = pytest.mark.timeout(300)

_DEPLOYMENT = "modelmesh-serving-linear"
#: Requests that were under way when the first answer of a new file came, at most.
_IN_FLIGHT = 8


def linear(**env: str) -> dict[str, Any]:
    """The runtime of ``examples/``, in two pods."""
    made = runtime("linear", "linear-runtime", "linear", "--capacity", "8MiB", replicas=2)
    made["spec"]["containers"][0]["env"] = [{"name": name, "value": value} for name, value in env.items()]
    return made


def line(bias: int) -> dict[str, Any]:
    return inference_service("line", "linear", storage={"key": "minio", "path": f"lines/{bias}.json"})


async def test_no_request_fails_while_models_and_pods_are_replaced(namespace: Namespace) -> None:
    lines = {f"lines/{bias}.json": {"weights": [2, 3], "bias": bias} for bias in (1, 2)}
    namespace.installation.s3.put(
        namespace.name, {path: json.dumps(one).encode() for path, one in lines.items()}
    )
    namespace.apply(linear(), line(1))
    await namespace.until_ready("line")
    await namespace.until(lambda: len(namespace.addresses()) == 2, "both pods in the Service")
    controller = namespace.installation.controller
    async with Load(namespace, "line") as load:
        await load.until_bias(1)
        # A controller that was away does what there was to do.
        await asyncio.to_thread(controller.kill)
        namespace.apply(line(2))
        await load.go_on()
        assert set(load.biases) == {1}
        controller.start()
        await load.until_bias(2)
        await namespace.until_ready("line")

        before = {pod["metadata"]["uid"] for pod in namespace.all("pods")}
        namespace.apply(linear(CHANGED="yes"))

        def replaced() -> bool:
            pods = namespace.all("pods")
            return len(namespace.addresses()) == len(pods) == 2 and not before & {
                pod["metadata"]["uid"] for pod in pods
            }

        await namespace.until(replaced, "all pods new")
        await load.go_on()
    assert load.failures == []
    # From the first answer of the new file on there is none of the old one.
    changed = load.biases.index(2)
    assert set(load.biases[changed + _IN_FLIGHT :]) == {2}


async def test_a_runtime_without_models_has_no_pods_until_there_is_one(namespace: Namespace) -> None:
    namespace.apply(linear())
    await namespace.until(lambda: namespace.get("deployment", _DEPLOYMENT) is not None, "a Deployment")
    assert namespace.get("deployment", _DEPLOYMENT)["spec"]["replicas"] == 0
    await _serve(namespace)
    namespace.delete("inferenceservice", "line")
    await namespace.until(lambda: not namespace.all("pods"), "no pods")
    await _serve(namespace)


async def test_pods_come_when_those_there_are_busy(namespace: Namespace) -> None:
    annotations = {"autoscalerClass": "hpa", "targetUtilizationPercentage": "50", "max-scale": "2"}
    scaled = linear()
    del scaled["spec"]["replicas"]
    scaled["metadata"]["annotations"] = {
        f"serving.kserve.io/{name}": value for name, value in annotations.items()
    }
    namespace.apply(scaled)
    await _serve(namespace)
    assert len(namespace.all("pods")) == 1
    metrics = namespace.installation.metrics
    async with Load(namespace, "line") as load:
        metrics.cpu = "500m"
        await namespace.until(lambda: len(namespace.addresses()) == 2, "a second pod")
        metrics.cpu = "0"
        await load.go_on()
    assert load.failures == []
    # What the autoscaler decided stays when the controller looks at the runtime again.
    scaled["metadata"]["labels"] = {"looked": "at"}
    namespace.apply(scaled)
    await namespace.until(
        lambda: namespace.get("hpa", _DEPLOYMENT)["metadata"]["labels"].get("looked") == "at", "a new look"
    )
    assert namespace.get("deployment", _DEPLOYMENT)["spec"]["replicas"] == 2


async def _serve(namespace: Namespace) -> None:
    namespace.installation.s3.put(namespace.name, {"lines/3.json": b'{"weights": [2, 3], "bias": 3}'})
    namespace.apply(line(3))
    await namespace.until_ready("line")
    async with Load(namespace, "line") as load:
        await load.until_bias(3)
    assert load.failures == []
