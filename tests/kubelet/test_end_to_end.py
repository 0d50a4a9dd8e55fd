"""From ``kubectl apply`` to a right answer, and to nothing left."""

import asyncio

import pytest
from tritonclient.utils import InferenceServerException

from tests.adapters.samples import SVM, XGBOOST, Sample
from tests.kubelet.installation import PATIENCE_S, Namespace, inference_service, runtime

pytestmark = pytest.mark.timeout(300)


async def test_what_is_applied_answers_and_what_is_deleted_is_gone(namespace: Namespace) -> None:
    claim = namespace.claim("team")
    on_claim = SVM.copy_to(claim / "digits")
    namespace.installation.s3.put(namespace.name, {"mushrooms/1/model.json": XGBOOST.path.read_bytes()})
    served = runtime("built-in", "mesh-runtime", "sklearn", "--capacity", "64MiB")
    served["spec"]["supportedModelFormats"].append({"name": "xgboost", "autoSelect": True})
    digits = inference_service("digits", "sklearn", storageUri="pvc://team/digits/model.joblib")
    namespace.apply(served, digits)
    await namespace.until_ready("digits")
    await namespace.until(lambda: len(namespace.addresses()) == 1, "an endpoint of the Service")
    [address] = namespace.addresses()
    await SVM.check(address, "digits")

    # A storage that becomes known while the pods run.
    namespace.add_storage("bucket")
    await namespace.until(lambda: namespace.has_file("storage-config", "bucket"), "the storage in the pod")
    storage = {"key": "bucket", "path": "mushrooms/1/model.json"}
    namespace.apply(inference_service("mushrooms", "xgboost", storage=storage))
    await namespace.until_ready("mushrooms")
    await XGBOOST.check(address, "mushrooms")

    for name, sample in (("digits", SVM), ("mushrooms", XGBOOST)):
        namespace.delete("inferenceservice", name)
        # kubectl does not wait for the controller.
        async with asyncio.timeout(PATIENCE_S):
            while await _answers(sample, address, name):
                await asyncio.sleep(0.1)
    namespace.delete("servingruntime", "built-in")
    await namespace.until(lambda: not namespace.all("deployments,pods"), "no pods")
    assert on_claim.exists()


async def _answers(sample: Sample, address: str, name: str) -> bool:
    try:
        await sample.check(address, name)
    except InferenceServerException as problem:
        if str(problem.status()) != "StatusCode.NOT_FOUND":
            raise
        return False
    return True
